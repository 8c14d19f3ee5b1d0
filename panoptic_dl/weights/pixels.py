"""Whether a run feeds the images that a weights file expects."""

import logging
import math
from typing import Any

from torch import nn

from .errors import WeightsError
from .origins import STATISTICS
from .printable import printable
from .read import WeightsFile

logger = logging.getLogger(__name__)


def check_pixels(
    model: nn.Module,
    file: WeightsFile,
    statistics: dict[str, tuple[float, ...]],
    image_format: str,
) -> None:
    """Hold what the file says of its images against the run's.

    Args:
        model: has `pixel_mean` and `pixel_std`, a number per channel; else nothing is compared.
        statistics: those that an old Detectron2 saved among the tensors.
        image_format: channel order of the run's images, RGB or BGR.

    Raises:
        WeightsError: the file expects another channel order. Other statistics are a loud warning,
            for a network can be trained on from them.
    """
    said: dict[str, Any] = dict(statistics)
    if file.provenance:
        said |= {name: getattr(file.provenance, name) for name in STATISTICS}
        expected = file.provenance.image_format
        if expected not in ("RGB", "BGR"):
            logger.warning(
                "weights=%s says that it expects %s images, which is neither RGB nor BGR: this is "
                "ignored, and the run feeds %s",
                file.path,
                printable(expected),
                image_format,
            )
        elif expected != image_format:
            raise WeightsError(
                f"weights={file.path} expects {expected} images, this run feeds {image_format}: "
                f"set dataset.image_format={expected}, or take weights for the other order"
            )
    for name, theirs in said.items():
        own = getattr(model, name, None)
        if own is None:
            continue
        ours = tuple(float(value) for value in own.flatten())
        if len(ours) == len(theirs) and all(map(_close, ours, theirs)):
            continue
        key = "pixels." + name.removeprefix("pixel_")
        for line in (
            f"weights={file.path} was trained with another {name} than this run uses:",
            f"    the file: {list(theirs)}",
            f"    this run: {list(ours)}",
            f"Figures will be wrong unless that is meant. To use the file's: {key}={list(theirs)}",
        ):
            logger.warning(line)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4)
