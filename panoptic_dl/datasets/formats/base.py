"""What readers of all formats return, and how they find files and splits.

A reader is a function `read(root, **options) -> Export`; it opens annotations, and leaves pixels to
the `label` of each sample, which is called in another process. `importing.py` has the table.

Shapes: H W pixels of the image, turned upright.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import near_names

JPEG = (".jpg", ".jpeg", ".jfif", ".mpo")
IMAGES = (*JPEG, ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2")
SPLITS = {  # what tools call them
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}

Segments = dict[int, tuple[int, int]]
"""Category id and crowd flag of the segments of an image, by their ids."""


class Instance(NamedTuple):
    """An annotated object, or a part of stuff; instances may overlap.

    Attributes:
        category_id: of its class.
        segmentation: polygons [[x, y, x, y, ...], ...] or a run-length code, as in COCO's JSON.
        iscrowd: whether it is a group of objects.
        where: names it in messages.
    """

    category_id: int
    segmentation: Any
    iscrowd: int = 0
    where: str = ""


Label = tuple[NDArray[np.integer], Segments] | list[Instance]
"""Ids (H, W), 0 where void, with their segments; or instances, which the converter paints."""


@dataclass(frozen=True)
class Sample:
    """An image of a split.

    Attributes:
        image: its file.
        label: returns its `Label`; can be pickled, and is called in another process. It raises
            `DatasetError` where an annotation cannot be read or does not fit the image.
        image_id: None: the name of the file.
    """

    image: Path
    label: Callable[[], Label]
    image_id: int | str | None = None


@dataclass
class Export:
    """What a reader has found.

    Attributes:
        categories: "id", "name", "isthing" and, where it is known, "color" (RGB) of each.
        splits: samples by the name of their split.
        notes: what was left out or changed, in sentences.
        objects_only: whether pixels that no annotation covers may be a class of their own.
    """

    categories: list[dict[str, Any]]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    objects_only: bool = False


def list_files(root: Path, suffixes: Sequence[str]) -> list[PurePosixPath]:
    """Files below `root` with one of the suffixes, relative to it and sorted; hidden ones, such as
    those that macOS leaves beside others, are not among them."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        inside = PurePosixPath(os.path.relpath(folder, root))
        names = (name for name in files if not name.startswith("."))
        found += [inside / name for name in names if name.lower().endswith(tuple(suffixes))]
    return sorted(found)


def has_keys(file: Path, *keys: str) -> bool:
    """Whether a JSON file seems to hold all these keys."""
    content = file.read_bytes()
    return all(f'"{key}"'.encode() in content for key in keys)


def split_of(path: PurePosixPath) -> str | None:
    """The split that a folder of the path names, "train", "val" or "test"; None without any."""
    return next((SPLITS[p.lower()] for p in path.parts[:-1] if p.lower() in SPLITS), None)


def by_split(samples: Iterable[tuple[str | None, Sample]]) -> dict[str, list[Sample]]:
    """Samples by split; those without one are to train on."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for split, sample in samples:
        found[split or "train"].append(sample)
    return dict(found)


class ImageFinder:
    """Finds the images that a file of annotations lists, wherever a tool has put them.

    Args:
        root: the folder of the export.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in list_files(root, IMAGES):
            self.by_name[_composed(path.name)].append(path)

    def __call__(self, name: Any, file: Path, split: str | None = None) -> Path:
        """The image that `file` calls `name`: nearest to that path and to the file, of that split.

        Raises:
            DatasetError: there is none, or there are several that fit equally well.
        """
        wanted = PurePosixPath(str(name).replace("\\", "/"))
        beside = PurePosixPath(os.path.relpath(file.parent, self.root))

        def fit(path: PurePosixPath) -> tuple[int, bool, bool]:
            pairs = zip(reversed(path.parts), reversed(wanted.parts), strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(wanted.parts))
            return same, path.parent == beside, split in (split_of(path), None)

        found = sorted(self.by_name.get(_composed(wanted.name), ()), key=fit, reverse=True)
        if not found:
            near = near_names(self.root, str(wanted), deep=True)
            raise DatasetError(
                f"file missing: {wanted}, which {file} lists, is nowhere below {self.root}{near}; "
                "export with images, or put the images there"
            )
        if len(found) > 1 and fit(found[0]) == fit(found[1]):
            raise DatasetError(
                f"{file} lists {wanted}, and {found[0]} and {found[1]} may be meant, below "
                f"{self.root}; keep one, or give them different names"
            )
        return self.root / found[0]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS writes letters with accents in two parts


def merge_names(
    tables: Iterable[Sequence[tuple[Any, str]]],
) -> tuple[list[dict[str, Any]], list[dict[Any, int]], list[str]]:
    """One list of classes for several tables of (id, name), which are told apart by name.

    Returns:
        Categories; for each table the category id by its own id; and notes. Ids are those of the
        first table where they are whole numbers, else count from 1.
    """
    tables = [list(table) for table in tables]
    names = list(dict.fromkeys(name.strip() for table in tables for _, name in table))
    own = {name.strip(): number for number, name in reversed(tables[0])} if tables else {}
    if set(own) != set(names) or not all(type(number) is int for number in own.values()):
        own = {name: number for number, name in enumerate(names, 1)}
    notes = [
        f"{len(numbers)} categories are called {name!r}: they are one class"
        for table in tables[:1]
        for name in names
        if len(numbers := [number for number, other in table if other.strip() == name]) > 1
    ]
    categories = [{"id": own[name], "name": name, "isthing": 1} for name in names]
    return categories, [{n: own[name.strip()] for n, name in t} for t in tables], notes
