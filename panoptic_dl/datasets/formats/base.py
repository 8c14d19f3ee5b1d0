"""What each reader of a format gives: categories, and samples by split."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Label = tuple[NDArray[np.integer], dict[int, tuple[int, int]]]
"""Ids (H, W), 0 where void, and of each id in it: the category's id, and whether it is a crowd."""


@dataclass(frozen=True)
class Sample:
    """An image, and what reads its label: a `functools.partial`, called in a worker process."""

    image: Path
    label: Callable[[], Label]


@dataclass(frozen=True)
class Export:
    """A dataset as its reader found it.

    Attributes:
        categories: "id", "name", "isthing" and "color" (RGB) of each.
        splits: samples by the name of the split.
        notes: lines for people, of what was left out and the like.
    """

    categories: list[dict[str, Any]]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
