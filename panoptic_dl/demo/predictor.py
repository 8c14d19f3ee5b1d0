"""`Predictor`: a trained model as a function of images.

H W pixels of an image, h w of the network's input, K classes.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

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
from panoptic_dl.core.images import LABEL_DIVISOR
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.runtime.prediction import BasePredictor, NetworkOutput, PreparedImage
from panoptic_dl.runtime.result import PanopticResult
from panoptic_dl.train.inference import accelerate
from panoptic_dl.train.precision import AUTO, arithmetic, plain_precision
from panoptic_dl.weights.hub import find_model
from panoptic_dl.weights.load import load_model


class Predictor(BasePredictor):
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

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, revision: str | None = None, **options: Any
    ) -> "Predictor":
        """A shared model: a folder that `export_weights.py --hub` made, or its repository.

        Args:
            source: the folder, or "user/name" on the Hugging Face hub.
            revision: of the repository, best a commit's hash; see `find_model`.
            options: `device`, `config_dirs` and all others of `from_run`, but `weights`.

        Raises:
            ValueError: there is no such model, a file of it has changed, or it does not fit.
        """
        return cls.from_run(find_model(source, revision), **options)

    def __init__(
        self,
        model: Any,
        mapper: Any,
        classes: Classes,
        *,
        weights: str | PathLike[str] | None = None,
        device: str | None = None,
        precision: str = "tf32",
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
            precision: of the network, "fp32", "tf32", "bf16" or "fp16"; "auto": a copy of it that
                computes nearly the same in less time, see docs/explanation/speed.md.
            maps: "image": pixels are grouped at the size of the image, as mode=eval does it.
                "network": at the size that the network sees, for which the model's numbers are
                made, and labels are brought to the image's size. That is for images much larger or
                smaller than the test size: objects hold together, and time and memory do not grow
                with the image. Both are the same where the test resize leaves an image as it is.
            branches: whether results have the heatmap of centers and the offsets.

        Raises:
            ValueError: weights that do not fit, a device that is not there, and the like.
        """
        divisor = int(getattr(model, "label_divisor", LABEL_DIVISOR))
        super().__init__(classes, divisor, isinstance(model, PanopticDeepLab), maps)
        self.device = _find_device(device)
        self._precision = plain_precision("precision", precision, self.device)
        if branches and not self.is_panoptic:
            raise DemoError("branches: a model of the semantic task has no centers and offsets")
        if weights is not None:
            load_model(model, str(weights), mapper.image_format)
        if self.is_panoptic:
            model.predict_semantic = model.predict_instances = True
        model = model.to(self.device).eval()
        fast = precision == AUTO
        self.model = accelerate(model, self._precision, self.device) if fast else model
        self.mapper, self.branches = mapper, branches
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"Predictor({kind}, {len(self.classes)} classes, on {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _resize(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        is_bgr = self.mapper.image_format == "BGR"
        resized = _AtLeastOnePixel(np.ascontiguousarray(pixels[..., ::-1]) if is_bgr else pixels)
        self.mapper.augmentations(resized)
        return resized.image, ()

    def _run(self, batch: Sequence[PreparedImage]) -> list[NetworkOutput]:
        with self._lock, torch.no_grad(), arithmetic(self._precision, self.device):
            samples: list[dict[str, Any]] = [
                {
                    "image": torch.from_numpy(image.resized),
                    "height": image.map_size[0],
                    "width": image.map_size[1],
                }
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
        result = super().finish(image, output)
        if output.center is None or output.offset is None:
            return result
        height, width = image.pixels.shape[:2]
        # In pixels of the image; the model leaves them in those of its input, or scales them.
        if self.maps == "image" and self.model.scale_offsets:
            scales = np.float32(1), np.float32(1)
        else:
            seen = image.resized.shape[1:]
            scales = np.float32(height / seen[0]), np.float32(width / seen[1])
        maps = output.center, *output.offset
        center, *offsets = (cv2.resize(each, (width, height)) for each in maps)
        offset = np.stack([o * s for o, s in zip(offsets, scales, strict=True)])
        return replace(result, center=center, offset=offset)


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
