"""What training starts from: given weights, or none although the recipe expects them."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from .load import load_model_or_backbone

logger = logging.getLogger(__name__)


def start_from(
    model: nn.Module,
    weights: str | None,
    expected: Mapping[str, Any] | None,
    image_format: str = "RGB",
) -> None:
    """Load `weights` into `model` or its backbone; without any, say what that means and go on.

    Args:
        expected: what the recipe starts from: `file`, the name of the pre-trained file, and
            `source`, where it comes from. None: training from random weights is as it should be.
        image_format: channel order of the run's images, RGB or BGR.

    Raises:
        WeightsError: the weights do not fit, or cannot be read.
    """
    if weights is not None:
        load_model_or_backbone(model, weights, image_format)
        return
    if expected is None:
        logger.info("No weights= given: training starts from random weights, as meant")
        return
    for line in (
        "=" * 78,
        "NO PRE-TRAINED WEIGHTS: weights= is not given, training starts from random weights.",
        f"The published figures start from {expected['file']} (ImageNet),",
        f"which comes from {expected['source']}.",
        "Without it expect figures well below the published ones. To use it:",
        f"    python scripts/convert_weights.py {expected['file']} BACKBONE.safetensors",
        "    python run.py ... weights=BACKBONE.safetensors",
        "=" * 78,
    ):
        logger.warning(line)
