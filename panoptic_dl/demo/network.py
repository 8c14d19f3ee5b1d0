"""The part of a prediction that runs on the device, one thread at a time.

H W pixels of an image, h w of the network's input.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panoptic_dl.engine.inference import InferenceOptions, arithmetic
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab

from .errors import DemoError
from .images import Picture


@dataclass(frozen=True)
class Prepared:
    """An image, and what the network is given of it: (3, h, w) uint8."""

    picture: Picture
    tensor: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.picture.pixels.shape[:2]
        return height, width


@dataclass(frozen=True)
class Raw:
    """What the network says of one image, on the CPU, at the size of its maps."""

    semantic: NDArray[np.integer]
    panoptic: NDArray[np.int32] | None
    scores: NDArray[np.float32]  # of the things, in the order of their labels
    center: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None


class Network:
    """A model that is asked for maps, by any number of threads.

    Attributes:
        is_panoptic: whether there are a panoptic map, centres and offsets.
        at_image_size: whether maps have the size of the image, or that of the network's input.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        *,
        num_classes: int,
        precision: str,
        at_image_size: bool,
        branches: bool,
    ) -> None:
        """
        Args:
            model: `PanopticDeepLab` or `DeepLabV3Plus`; it is moved, and put in evaluation mode.
            num_classes: classes of the semantic map.
            precision: one that the device has.
            branches: whether centres and offsets are kept.
        """
        self.is_panoptic = isinstance(model, PanopticDeepLab)
        if self.is_panoptic:
            model.predict_semantic = model.predict_instances = True
        self.model = model.to(device).eval()
        self.at_image_size, self.branches = at_image_size, branches
        self._type = torch.uint8 if num_classes <= 256 else torch.int32
        self._device, self._options = device, InferenceOptions(precision=precision)
        self._lock = threading.Lock()

    def __call__(self, images: Sequence[Prepared]) -> list[Raw]:
        """Predict; images of one size are a batch.

        Others are not put together: padding would show in the maps.
        """
        groups: dict[Any, list[int]] = {}
        for position, image in enumerate(images):
            key = (image.tensor.shape, self.size_of_maps(image))
            groups.setdefault(key, []).append(position)
        raws: dict[int, Raw] = {}
        for positions in groups.values():
            batch = [images[position] for position in positions]
            with self._lock, torch.no_grad(), arithmetic(self._options, self._device):
                raws |= zip(positions, self._run(batch), strict=True)
        return [raws[position] for position in range(len(images))]

    def size_of_maps(self, image: Prepared) -> tuple[int, int]:
        """(height, width) at which pixels are grouped."""
        if self.at_image_size:
            return image.size
        return image.tensor.shape[1], image.tensor.shape[2]

    def _run(self, batch: Sequence[Prepared]) -> Iterable[Raw]:
        samples: list[dict[str, Any]] = []
        for image in batch:
            height, width = self.size_of_maps(image)
            samples.append({"image": image.tensor, "height": height, "width": width})
        images = self.model.preprocess(samples)
        maps = self.model.network(images.tensor)
        if not self.is_panoptic:
            outputs = self.model.postprocess(maps, images.image_sizes, samples)
            classes = [output["sem_seg"].float().argmax(dim=0) for output in outputs]
            return [Raw(self._classes(each), None, np.zeros(0, np.float32)) for each in classes]
        per_image = zip(*maps, images.image_sizes, samples, strict=True)
        resized = [self.model.resize_maps(*inputs) for inputs in per_image]
        return [
            Raw(
                self._classes(image_maps.classes),
                output["panoptic_seg"][0].int().cpu().numpy(),
                output["instances"].scores.float().cpu().numpy(),
                image_maps.center[0].cpu().numpy() if self.branches else None,
                image_maps.offset.cpu().numpy() if self.branches else None,
            )
            for image_maps, output in zip(resized, self.model.merge(resized), strict=True)
        ]

    def _classes(self, classes: Tensor) -> NDArray[np.integer]:
        numbers: NDArray[np.integer] = classes.to(self._type).cpu().numpy()
        return numbers if self._type == torch.uint8 else numbers.astype(np.uint16)


def find_device(name: str | None) -> torch.device:
    """The device of a name; None: a GPU if there is one.

    Raises:
        DemoError: this machine has not got it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DemoError(f"device={name} is unknown; choose cuda, cuda:1 or cpu") from None
    there = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= there
    ):
        raise DemoError(f"device={name}: this machine has {there} GPUs; choose cpu, or one of them")
    return device
