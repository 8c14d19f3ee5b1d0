"""PASCAL VOC's segmentation, and "Segmentation mask" of CVAT, which has its layout.

    <root>/VOCdevkit/VOC2012/          or what an export has in its place
      JPEGImages/<name>.jpg
      SegmentationClass/<name>.png     the class
      SegmentationObject/<name>.png    another number or color for each object
      ImageSets/Segmentation/<split>.txt     names, one a line
      labelmap.txt                     of exports: `name:red,green,blue::`, one class a line

Without labelmap.txt classes are VOC's: 0 is background, 1..20 are things. A file with colors has
those of labelmap.txt, or else VOC's; one of numbers, positions in that table. Background is stuff,
all others are things. A thing outside of any object is a crowd: known, but not told apart. VOC's
border, (224, 224, 192) or 255, is void, and so is black where no class has it.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import opened_image, read_label_ids, read_panoptic_ids
from panoptic_dl.datasets.formats.base import SPLITS, Export, Label, Sample
from panoptic_dl.datasets.formats.masks import BORDER, Table, find_table, read_mask
from panoptic_dl.datasets.formats.official import how_to_get, official_layout, read_table

FOLDER = "VOCdevkit/VOC2012"
TABLE = "labelmap.txt"
LISTS = "ImageSets/Segmentation"
WITH_IMAGES = "put them there; in CVAT, export with images"


def recognize(root: Path, *, table: bool = False) -> str:
    """What the folder is, in words; "" where it has not this layout, with or without a table."""
    base = official_layout("PASCAL VOC", root, FOLDER).base
    if not ((base / "SegmentationClass").is_dir() and (base / LISTS).is_dir()):
        return ""
    return ("PASCAL VOC", "masks of CVAT")[table] if (base / TABLE).is_file() == table else ""


def read(root: str | Path) -> Export:
    """Read a folder with VOC's layout.

    Raises:
        DatasetError: files are missing, or labelmap.txt has a class without a color. Calling a
            label raises it where that has a color or number of no class.
    """
    layout = official_layout("PASCAL VOC", root, FOLDER)
    if (layout.base / TABLE).is_file():
        layout = replace(layout, title="masks of CVAT")
    for folder in ("SegmentationClass", LISTS):
        layout.require_folder(layout.base / folder, how_to_get("voc"))
    layout.require_folder(layout.base / "JPEGImages", WITH_IMAGES)
    table = layout.base / TABLE
    categories = read_table("voc")
    if table.is_file():
        categories = [
            {"id": number, "isthing": int(row["name"] != "background"), **row}
            for number, row in find_table(layout.base, TABLE).items()
            if row["color"] != [224, 224, 192]  # the border, which Datumaro calls "ignored"
        ]
    if without := [c["name"] for c in categories if not c["color"]]:
        raise DatasetError(f"{table}: {without[0]!r} has no color; write name:red,green,blue::")
    rows = {c["id"]: c for c in categories}
    things = frozenset(c["id"] for c in categories if c["isthing"])
    images = {
        path.relative_to(layout.base / "JPEGImages").with_suffix("").as_posix(): path
        for path in (layout.base / "JPEGImages").rglob("[!.]*.*")
    }
    lists = {file.stem: file for file in sorted((layout.base / LISTS).glob("[!.]*.txt"))}
    if {"train", "val"} <= set(lists):
        lists.pop("trainval", None)  # both of them
    notes: list[str] = []
    splits: dict[str, list[Sample]] = {}
    for split, file in lists.items():
        lines = (line.strip().strip('"') for line in file.read_text(encoding="utf-8").splitlines())
        names = [line for line in lines if line]
        if missing := [name for name in names if name not in images]:
            problem = f"{len(missing)} of {len(names)} images of {file} are missing, first"
            raise layout.error(f"{problem} JPEGImages/{missing[0]}.*", WITH_IMAGES)
        samples, kinds = [], ("SegmentationClass", "SegmentationObject")
        for name in names:
            classes, objects = (layout.base / kind / f"{name}.png" for kind in kinds)
            if classes.is_file():
                found = objects if objects.is_file() else None
                label = partial(read_label, classes, found, rows, things)
                samples.append(Sample(images[name], label))
        if unlabeled := len(names) - len(samples):
            notes.append(f"{split}: {unlabeled} of {len(names)} images have no label, left out")
        if samples:
            name = "train" if split == "default" else split
            splits.setdefault(SPLITS.get(name.lower(), name), []).extend(samples)
    if not splits:
        raise layout.error(f"no image that {LISTS}/*.txt lists has a label", how_to_get("voc"))
    return Export(categories, splits, notes)


def read_label(classes: Path, objects: Path | None, table: Table, things: Collection[int]) -> Label:
    """The segments of an image: pairs of an object and its class.

    Args:
        objects: None where objects are not told apart.
        things: numbers of their classes in the table.

    Raises:
        DatasetError: the two differ in size, or a pixel is of no class.
    """
    ids, _ = read_mask(classes, table, 255)
    owners = np.zeros(ids.shape, np.int64)
    if objects is not None:
        with opened_image(objects) as image:
            in_colors = image.mode not in ("1", "L")
        owners = (read_panoptic_ids if in_colors else read_label_ids)(objects).astype(np.int64)
        if owners.shape != ids.shape:
            raise DatasetError(f"{objects} and {classes} have different sizes")
        owners[owners == (BORDER if in_colors else 255)] = 0
        owners[~np.isin(ids, [number + 1 for number in things])] = 0
    pairs, inverse = np.unique(np.where(ids, owners << 8 | ids, 0), return_inverse=True)
    first = int(pairs[0] > 0)  # 0 is void
    segments = {
        number: (pair % 256 - 1, int(pair % 256 - 1 in things and pair < 256))
        for number, pair in enumerate(pairs.tolist(), first)
        if pair
    }
    return inverse.reshape(ids.shape) + first, segments
