"""`precision=auto`: the fastest way to run a network on this machine that is exact enough.

Batch normalization is folded, the memory format is the one that is faster here, and bf16 is taken
where the processor has units for it. Nothing of this changes a checkpoint.
"""

import copy
import logging
import time
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_dl.models.batch_norm import fold_batch_norms
from panoptic_dl.train.precision import arithmetic

FOLDED_SIDE = 128  # pixels of the image on which folding is checked
TIMED_SIDE = {"cpu": 512, "cuda": 1024}  # pixels of the image on which memory formats are timed
REPETITIONS = 3
GAIN = 1.03  # with channels last, or weights stay channels first

logger = logging.getLogger(__name__)


def accelerate(model: Any, precision: str, device: torch.device) -> Any:
    """A copy of a model in eval mode, on its device, that computes the same in less time.

    Batch norm is folded, unless that changes the output, and weights are in the memory format in
    which an image takes less time: both are tried, which takes some images' time.
    """
    fast, words = copy.deepcopy(model), [precision]
    try:
        fold_exactly("precision=auto", fast, _image(fast, FOLDED_SIDE))
        words.append("folded batch norm")
    except ValueError as error:
        logger.warning("%s", error)
        fast = copy.deepcopy(model)
    for name, module in fast.named_modules():
        if name.endswith("predictor"):  # what comes after it reads channel by channel
            module.register_forward_hook(_contiguous)
    images = _image(fast, TIMED_SIDE[device.type])
    plain = _seconds(fast, images, precision, device)
    fast.to(memory_format=torch.channels_last)
    gain = plain / _seconds(fast, images, precision, device)
    if gain < GAIN:
        fast.to(memory_format=torch.contiguous_format)
    words.append(f"channels {'last' if gain >= GAIN else 'first'} ({gain:.2f}x)")
    logger.info("precision=auto: %s", ", ".join(words))
    return fast


@torch.no_grad()
def fold_exactly(key: str, model: Any, images: Tensor) -> None:
    """Fold batch norm in place, in double precision, where any change but rounding would show.

    Raises ValueError, with the key, where the output of `images` (N, C, H, W) changes.
    """
    model.double()
    images = images.double()
    before = model.network(images)
    fold_batch_norms(model, lambda: model.network(images))
    for maps, folded in zip(before, model.network(images), strict=True):
        difference = (maps - folded).abs().max().item()
        if not difference <= 1e-9 * maps.abs().max().item():
            raise ValueError(
                f"{key}: folding batch norm changes outputs by {difference:.3g} in double "
                "precision: it is not exact for this network, leave it out"
            )
    model.float()


def _contiguous(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output.contiguous() if isinstance(output, Tensor) else output


def _image(model: Any, side: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    pixels = 255 * torch.rand((len(model.pixel_mean), side, side), generator=random)
    images: Tensor = model.preprocess([{"image": pixels}]).tensor
    return images


@torch.no_grad()
def _seconds(model: Any, images: Tensor, precision: str, device: torch.device) -> float:
    """The shortest of some forward passes; of the CPU's time, which other processes do not move."""
    seconds, clock = [], time.process_time if device.type == "cpu" else time.perf_counter
    for _ in range(REPETITIONS):
        started = clock()
        with arithmetic(precision, device):
            model.network(images)[0].flatten()[0].item()  # waits for a GPU
        seconds.append(clock() - started)
    return min(seconds)
