"""A healthy tiny dataset, and what a fault of it is.

A function breaks the dataset below a root, and returns what the doctor's row must name. `FAULTS`
says which rows must be other than in the healthy dataset, and how; no further row may be.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.datasets.tiny_datasets import write_cityscapes, write_coco

PIXEL = (0, 0)
FIRST = "000000000101"  # an image of COCO's train split, 60 x 80


def write_healthy(root: Path, kind: str) -> Path:
    """Write both splits; of the two no image is the same."""
    if kind == "coco":
        write_coco(root, train=4, val=2)
    else:
        write_cityscapes(root, train=3, val=2)
    pattern = "val2017/*.jpg" if kind == "coco" else "leftImg8bit/val/*/*.png"
    for seed, file in enumerate(sorted((root / kind).glob(pattern)), start=100):
        size = Image.open(file).size
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return root


@dataclass(frozen=True)
class Fault:
    """`rows`: the state of each row that is not as in the healthy dataset; the first names it."""

    kind: str
    break_it: Callable[[Path], str]
    rows: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.break_it.__name__}"


FAULTS: list[Fault] = []


def fault(kind: str, row: str, state: str = "FAIL", **others: str) -> Any:
    """Add a function to the library."""

    def add(function: Callable[[Path], str]) -> Callable[[Path], str]:
        rows = {row: state} | {key.replace("_", " "): value for key, value in others.items()}
        FAULTS.append(Fault(kind, function, rows))
        return function

    return add


def image_of(root: Path) -> Path:
    return root / "coco" / "train2017" / f"{FIRST}.jpg"


def label_of(root: Path) -> Path:
    return root / "coco" / "panoptic_train2017" / f"{FIRST}.png"


def halve(file: Path) -> str:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return str(file)


def edit_json(file: Path, edit: Callable[[Any], Any]) -> str:
    content = json.loads(file.read_bytes())
    edit(content)
    file.write_text(json.dumps(content))
    return str(file)


def coco_json(root: Path, edit: Callable[[Any], Any], kind: str = "panoptic_train2017") -> str:
    return edit_json(root / "coco" / "annotations" / f"{kind}.json", edit)


def segment_of(content: Any, index: int = 1) -> Any:
    """A segment of the second image: 0 stuff, 1 and 2 persons, 3 a crowd."""
    return content["annotations"][1]["segments_info"][index]


def save_as(file: Path, mode: str, file_format: str) -> str:
    Image.open(file).convert(mode).save(file, format=file_format)
    return str(file)
