"""`Predictor`: a trained model as a function of images.

H W pixels of an image, h w of the network's input, K classes.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, overload

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torch import Tensor

from panoptic_dl.config import build
from panoptic_dl.config.composition import Folders, open_run
from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import local_path
from panoptic_dl.demo.inputs import AnImage, read_pixels
from panoptic_dl.demo.result import PanopticResult, Segment
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.train.precision import arithmetic, check_precision
from panoptic_dl.visualize.segmentation import SegmentTable
from panoptic_dl.weights.load import load_model

MAP_SIZES = ("image", "network")
LARGEST_FACTOR = 16  # of enlarged labels whose corners are rounded; beyond, squares stay visible


@dataclass(frozen=True, repr=False)
class PreparedImage:
    """An image, and the network's input made of it."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB
    notes: tuple[str, ...]  # what was left out of the picture
    tensor: Tensor  # (3, h, w) uint8
    map_size: tuple[int, int]  # (height, width) at which pixels are grouped


@dataclass(frozen=True, repr=False)
class NetworkOutput:
    """The maps of one image, on the CPU, at the size at which pixels are grouped."""

    semantic: NDArray[np.integer]
    panoptic: NDArray[np.int32] | None = None
    scores: NDArray[np.float32] | None = None  # of the things, in the order of their labels
    center: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None


class Predictor:
    """A model that takes images as they are: arrays, PIL images or files, of any size and mode.

    `predictor(image)` gives a `PanopticResult`, `predictor([image, ...])` a list of them. Any
    number of threads may call one predictor; the network serves them in turn. It can be pickled,
    and so be sent to other processes, which need the same device.
    """

    @classmethod
    def from_run(
        cls,
        folder: str | PathLike[str],
        *,
        weights: str | PathLike[str] | None = None,
        device: str | None = None,
        config_dirs: Folders = (),
        **options: Any,
    ) -> "Predictor":
        """The model of a run, from its folder alone; its dataset need not be there.

        Args:
            folder: output folder of a training run.
            weights: another file than `model_final.pth`, or else the newest checkpoint: a name in
                the folder, or a path.
            device: "cuda", "cuda:1", "cpu"; None: a GPU if there is one.
            config_dirs: folders of your own options, where those of the run are.
            options: `precision`, `maps`, `branches`, see `Predictor`.

        Raises:
            ValueError: it is no run folder, or its weights do not fit; the message says what to do.
        """
        run = local_path(folder, "folder")
        config = open_run(run, config_dirs)
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
        maps: str = "image",
        branches: bool = False,
    ) -> None:
        """
        Args:
            model: `PanopticDeepLab` or `DeepLabV3Plus`; it is put in its evaluation mode.
            mapper: a test mapper, whose `augmentations` and `image_format` are used.
            classes: names and colors.
            weights: a file or run folder that covers all of the model; None: it has its own.
            device: "cuda", "cuda:1", "cpu"; None: a GPU if there is one.
            precision: of the network, "fp32", "tf32", "bf16" or "fp16".
            maps: "image": pixels are grouped at the size of the image, as mode=eval does it.
                "network": at the size that the network sees, for which the model's numbers are
                made, and labels are brought to the image's size. That is for images much larger or
                smaller than the test size: objects hold together, and time and memory do not grow
                with the image. Both are the same where the test resize leaves an image as it is.
            branches: whether results have the heatmap of centers and the offsets.

        Raises:
            ValueError: weights that do not fit, a device that is not there, and the like.
        """
        if maps not in MAP_SIZES:
            raise DemoError(f"maps={maps} is unknown; choose {' or '.join(MAP_SIZES)}")
        self.device = _find_device(device)
        check_precision("precision", precision, self.device)
        self.is_panoptic = isinstance(model, PanopticDeepLab)
        if branches and not self.is_panoptic:
            raise DemoError("branches: a model of the semantic task has no centers and offsets")
        if weights is not None:
            load_model(model, str(weights), mapper.image_format)
        if self.is_panoptic:
            model.predict_semantic = model.predict_instances = True
        self.model = model.to(self.device).eval()
        self.mapper, self.classes = mapper, classes
        self.label_divisor = int(getattr(model, "label_divisor", 1000))
        self.maps_at_image_size, self.branches = maps == "image", branches
        self._precision = precision
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"Predictor({kind}, {len(self.classes)} classes, on {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    # A path is a Sequence, too: lists and tuples alone are several images.
    @overload
    def __call__(self, images: AnImage) -> PanopticResult: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[PanopticResult]: ...
    def __call__(self, images: Any) -> PanopticResult | list[PanopticResult]:
        """Predict one image, or a list of them.

        Args:
            images: (H, W, 3) RGB uint8, a PIL image, or the path of a picture; or a
                list or tuple of them. Those of a list that have one size are a batch: give as many
                as fit into memory.

        Raises:
            DemoError: (a ValueError) an image cannot be read, or is none.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        prepared = [self.prepare(image) for image in images]
        return [
            self.finish(image, output)
            for image, output in zip(prepared, self.predict(prepared), strict=True)
        ]

    def prepare(self, image: AnImage) -> PreparedImage:
        """Read an image and resize it for the network; in any thread."""
        pixels, notes = read_pixels(image)
        is_bgr = self.mapper.image_format == "BGR"
        resized = _AtLeastOnePixel(np.ascontiguousarray(pixels[..., ::-1]) if is_bgr else pixels)
        self.mapper.augmentations(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        height, width = pixels.shape[:2] if self.maps_at_image_size else tensor.shape[1:]
        return PreparedImage(pixels, notes, tensor, (height, width))

    def predict(self, images: Sequence[PreparedImage]) -> list[NetworkOutput]:
        """Run the network on prepared images; images of one size are a batch.

        Others are not batched, because padding would show in the maps.
        """
        groups: dict[Any, list[int]] = {}
        for position, image in enumerate(images):
            groups.setdefault((image.tensor.shape, image.map_size), []).append(position)
        outputs: dict[int, NetworkOutput] = {}
        for positions in groups.values():
            batch = [images[position] for position in positions]
            with self._lock, torch.no_grad(), arithmetic(self._precision, self.device):
                outputs |= zip(positions, self._run(batch), strict=True)
        return [outputs[position] for position in range(len(images))]

    def _run(self, batch: Sequence[PreparedImage]) -> list[NetworkOutput]:
        samples: list[dict[str, Any]] = [
            {"image": image.tensor, "height": image.map_size[0], "width": image.map_size[1]}
            for image in batch
        ]
        images = self.model.preprocess(samples)
        maps = self.model.network(images.tensor)
        if not self.is_panoptic:
            outputs = self.model.postprocess(maps, images.image_sizes, samples)
            classes = [output["sem_seg"].float().argmax(dim=0) for output in outputs]
            return [NetworkOutput(self._to_array(each)) for each in classes]
        per_image = zip(*maps, images.image_sizes, samples, strict=True)
        resized = [self.model.resize_maps(*inputs) for inputs in per_image]
        return [
            NetworkOutput(
                self._to_array(image_maps.classes),
                output["panoptic_seg"][0].int().cpu().numpy(),
                output["instances"].scores.float().cpu().numpy(),
                image_maps.center[0].cpu().numpy() if self.branches else None,
                image_maps.offset.cpu().numpy() if self.branches else None,
            )
            for image_maps, output in zip(resized, self.model.merge(resized), strict=True)
        ]

    def _to_array(self, classes: Tensor) -> NDArray[np.integer]:
        """A map of classes on the CPU, uint8 or uint16."""
        if len(self.classes) <= 256:
            return classes.to(torch.uint8).cpu().numpy()  # type: ignore[no-any-return]
        return classes.int().cpu().numpy().astype(np.uint16)  # type: ignore[no-any-return]

    def finish(self, image: PreparedImage, output: NetworkOutput) -> PanopticResult:
        """Bring maps to the image's size, and list the segments; in any thread."""
        height, width = size = image.pixels.shape[:2]
        semantic = _labels_at(output.semantic, size)
        panoptic, segments = output.panoptic, list[Segment]()
        if panoptic is not None:
            assert output.scores is not None
            ids = SegmentTable.of(panoptic).ids
            is_thing = np.isin(ids // self.label_divisor, self.classes.thing_ids) & (ids >= 0)
            scores = dict(zip(ids[is_thing].tolist(), output.scores.tolist(), strict=True))
            panoptic = _labels_at(panoptic, size)  # type: ignore[assignment]
            segments = self._segments(panoptic, scores)
        center, offset = output.center, output.offset
        if center is not None and offset is not None:
            # In pixels of the image; the model leaves them in those of its input, or scales them.
            if self.maps_at_image_size and self.model.scale_offsets:
                scales = np.float32(1), np.float32(1)
            else:
                seen = image.tensor.shape[1:]
                scales = np.float32(height / seen[0]), np.float32(width / seen[1])
            center, *offsets = (cv2.resize(m, (width, height)) for m in (center, *offset))
            offset = np.stack([o * s for o, s in zip(offsets, scales, strict=True)])
        return PanopticResult(
            image=image.pixels,
            semantic=semantic,  # type: ignore[arg-type]
            panoptic=panoptic,
            segments=segments,
            classes=self.classes,
            label_divisor=self.label_divisor,
            center=center,
            offset=offset,
            notes=image.notes,
        )

    def _segments(self, panoptic: NDArray[np.integer], scores: dict[int, float]) -> list[Segment]:
        table = SegmentTable.of(panoptic)
        segments = []
        for label, area, box in zip(
            table.ids.tolist(), table.areas.tolist(), table.boxes(), strict=True
        ):
            if label >= 0:  # not void
                category = label // self.label_divisor
                name, is_thing = self.classes.names[category], category in self.classes.thing_ids
                score = scores.get(label)
                segments.append(Segment(label, category, name, is_thing, area, box, score))
        return segments


def _find_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DemoError(f"device={name} is unknown; choose cuda, cuda:1 or cpu") from None
    there = torch.cuda.device_count()
    if device.type != "cpu" and (device.type != "cuda" or (device.index or 0) >= there):
        raise DemoError(f"device={name}: this machine has {there} GPUs; choose cpu, or one of them")
    return device


class _AtLeastOnePixel(T.AugInput):
    """An image in a test resize: Detectron2 rounds 20 x 3000 pixels at the size of 256 to none."""

    def transform(self, tfm: T.Transform) -> None:
        """Resize to at least one pixel."""
        if isinstance(tfm, T.ResizeTransform):
            tfm.new_h, tfm.new_w = max(1, tfm.new_h), max(1, tfm.new_w)
        super().transform(tfm)


def _labels_at(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """A map of labels at (height, width): the label of the nearest pixel.

    Corners of squares of 2 x 2 and more are rounded, by the median of the labels around each pixel.
    Lines keep their width; a segment of a single pixel may vanish.
    """
    if labels.shape == size:
        return labels
    factor = min(new / old for old, new in zip(labels.shape, size, strict=True))
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp).clip(0, old - 1)
        for old, new in zip(labels.shape, size, strict=True)
    )
    labels = labels[rows[:, None], columns]
    # In a square of this side a line of `factor` pixels has the majority.
    side = 2 * min(int(factor), LARGEST_FACTOR) - 1
    if side < 3:
        return labels
    table = SegmentTable.of(labels.astype(np.int32))
    # OpenCV has small windows alone for more than 256 labels.
    index = cv2.medianBlur(table.index, side if table.index.dtype == np.uint8 else min(side, 5))
    return table.ids[index].astype(labels.dtype)
