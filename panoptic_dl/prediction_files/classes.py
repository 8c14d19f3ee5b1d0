"""Semantic predictions on their way into files.

Shapes: K classes, H W pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TakenClasses:
    """Classes of one image, (H, W) int16, K where there is none."""

    image: Any
    classes: np.ndarray
