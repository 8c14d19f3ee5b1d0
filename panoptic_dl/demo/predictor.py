"""`Predictor`: a trained model as a function of images.

H W pixels of an image, h w of the network's input.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.classes import Classes
from panoptic_dl.config import build
from panoptic_dl.config.saved import saved_config
from panoptic_dl.engine.float32 import check_precision
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.visualize.segments import SegmentTable
from panoptic_dl.weights.load import load_model

from .errors import DemoError
from .images import Picture, from_array, from_pillow, read_picture
from .network import Network, Prepared, Raw, find_device
from .result import VOID, PanopticResult, Segment
from .sizes import labels_at, to_network, values_at

SIZES = ("network", "image")

AnImage = NDArray[np.uint8] | Image.Image | str | PathLike[str]


class Predictor:
    """A model that takes images as they are: arrays, PIL images or files, of any size and mode.

    `predictor(image)` gives a `PanopticResult`, `predictor([image, ...])` a list of them. Any
    number of threads may call one predictor; the network serves them in turn.
    """

    @classmethod
    def from_run(
        cls,
        folder: str | PathLike[str],
        *,
        weights: str | PathLike[str] | None = None,
        device: str | None = None,
        **options: Any,
    ) -> "Predictor":
        """The model of a run, from its folder alone; its dataset need not be there.

        Args:
            folder: output folder of a training run.
            weights: another file than `model_final.pth`, or else the newest checkpoint: a name in
                the folder, or a path.
            device: "cuda", "cuda:1", "cpu"; None: a GPU if there is one.
            options: `precision`, `maps`, `branches`, see `Predictor`.

        Raises:
            ValueError: it is no run folder, or its weights do not fit; the message says what to do.
        """
        run = Path(folder).expanduser()
        config = saved_config(run)
        named = weights is not None and (run / weights).is_file()
        return cls(
            build(config.task.model),
            build(config.task.evaluation.loader.mapper),
            build(config.dataset.classes),
            weights=run if weights is None else run / weights if named else weights,
            device=device,
            **options,
        )

    def __init__(
        self,
        model: Any,
        mapper: Any,
        classes: Classes,
        *,
        weights: str | PathLike[str] | None = None,
        device: str | None = None,
        precision: str = "fp32",
        maps: str = "network",
        branches: bool = False,
    ) -> None:
        """
        Args:
            model: `PanopticDeepLab` or `DeepLabV3Plus`; it is put in its evaluation mode.
            mapper: a test mapper, whose `augmentations` and `image_format` are used.
            classes: names and colours.
            weights: a file or run folder that covers all of the model; None: it has its own.
            device: "cuda", "cuda:1", "cpu"; None: a GPU if there is one.
            precision: of the network, "fp32", "tf32", "bf16" or "fp16".
            maps: "network": pixels are grouped at the size that the network sees, for which its
                numbers are made, and labels brought to the image's size. "image": at the size of
                the image, as mode=eval does it. Both are the same where the test resize leaves an
                image as it is.
            branches: whether results have the heatmap of centres and the offsets.

        Raises:
            ValueError: weights that do not fit, a device that is not there, and the like.
        """
        if maps not in SIZES:
            raise DemoError(f"maps={maps} is unknown; choose {' or '.join(SIZES)}")
        self.device = find_device(device)
        check_precision("precision", precision, self.device)
        if branches and not isinstance(model, PanopticDeepLab):
            raise DemoError("branches: a model of the semantic task has no centres and offsets")
        if weights is not None:
            load_model(model, str(weights), mapper.image_format)
        self.mapper, self.classes = mapper, classes
        self.label_divisor = int(getattr(model, "label_divisor", 1000))
        self.network = Network(
            *(model, self.device),
            num_classes=len(classes),
            precision=precision,
            at_image_size=maps == "image",
            branches=branches,
        )

    # A path is a Sequence, too: lists and tuples alone are several images.
    @overload
    def __call__(self, images: AnImage) -> PanopticResult: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[PanopticResult]: ...
    def __call__(self, images: Any) -> PanopticResult | list[PanopticResult]:
        """Predict one image, or a list of them.

        Args:
            images: (H, W, 3) RGB uint8, a PIL image, or the path of a picture of any kind; or a
                list or tuple of them. Those of a list that have one size are a batch: give as many
                as fit into memory.

        Raises:
            DemoError: (a ValueError) an image cannot be read, or is none.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        prepared = [self.prepare(image) for image in images]
        return [
            self.finish(image, raw)
            for image, raw in zip(prepared, self.predict(prepared), strict=True)
        ]

    def prepare(self, image: AnImage | Picture) -> Prepared:
        """Read an image and resize it for the network; in any thread."""
        if isinstance(image, (str, PathLike)):
            image = read_picture(Path(image).expanduser())
        elif isinstance(image, Image.Image):
            image = from_pillow(image)
        elif isinstance(image, np.ndarray):
            image = from_array(image)
        elif not isinstance(image, Picture):
            raise DemoError(
                f"a {type(image).__name__} is no image: give a (H, W, 3) RGB uint8 array, a PIL "
                "image, a path, or a list of them"
            )
        resized = to_network(image.pixels, self.mapper.augmentations, self.mapper.image_format)
        return Prepared(image, resized)

    def predict(self, images: Sequence[Prepared]) -> list[Raw]:
        """Run the network on prepared images; see `Network`."""
        return self.network(images)

    def finish(self, image: Prepared, raw: Raw) -> PanopticResult:
        """Bring maps to the image's size, and list the segments; in any thread."""
        size = image.size
        panoptic, segments = raw.panoptic, list[Segment]()
        semantic = labels_at(raw.semantic, size)
        if panoptic is not None:
            scores = dict(zip(self._things(panoptic), raw.scores.tolist(), strict=True))
            panoptic = labels_at(panoptic, size)  # type: ignore[assignment]
            segments = self._segments(panoptic, scores)
        center, offset = raw.center, raw.offset
        if center is not None and offset is not None:
            scales = [new / old for new, old in zip(size, center.shape, strict=True)]
            if self.network.at_image_size:  # they were left in pixels of the network, mostly
                scales = [1.0, 1.0]
            center = values_at(center, size)
            offset = np.stack(
                [values_at(o, size) * np.float32(s) for o, s in zip(offset, scales, strict=True)]
            )
        return PanopticResult(
            image=image.picture.pixels,
            semantic=semantic,  # type: ignore[arg-type]
            panoptic=panoptic,
            segments=segments,
            classes=self.classes,
            label_divisor=self.label_divisor,
            center=center,
            offset=offset,
            notes=image.picture.notes,
        )

    def _things(self, panoptic: NDArray[np.integer]) -> list[int]:
        """Labels of the things of a map, ascending."""
        ids = SegmentTable.of(panoptic).ids
        things = np.isin(ids // self.label_divisor, self.classes.thing_ids) & (ids >= 0)
        return ids[things].tolist()

    def _segments(self, panoptic: NDArray[np.integer], scores: dict[int, float]) -> list[Segment]:
        table = SegmentTable.of(panoptic)
        segments = []
        for label, area, box in zip(
            table.ids.tolist(), table.areas.tolist(), table.boxes(), strict=True
        ):
            if label == VOID:
                continue
            category = label // self.label_divisor
            segments.append(
                Segment(
                    id=label,
                    category=category,
                    name=self.classes.names[category],
                    is_thing=category in self.classes.thing_ids,
                    area=area,
                    box=box,
                    score=scores.get(label),
                )
            )
        return segments
