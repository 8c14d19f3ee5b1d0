"""Datasets in the formats of annotation tools: recognized, and converted once into a cache.

Whatever a reader finds becomes COCO's panoptic format, PNGs and one JSON file a split, in a folder
of the cache; images stay where they are, and nothing is written beside them. All else of the
project reads that. How to add a format: a module in `formats/` and its line in `FORMATS`.

Shapes: H W pixels.
"""

import hashlib
import json
import logging
import os
import random
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.archives import file_state
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import PROGRAM, local_path, near_names, write_text
from panoptic_dl.core.images import NUM_IDS, ids_to_colors, read_size, require_same_size
from panoptic_dl.core.masks import decode_mask, encode_segmentation, polygon_fault
from panoptic_dl.core.settings import require_value
from panoptic_dl.datasets.categories import check_categories
from panoptic_dl.datasets.formats import (
    ade20k,
    bdd100k,
    coco_instances,
    labelme,
    masks,
    voc,
    yolo,
)
from panoptic_dl.datasets.formats.base import (
    Export,
    Instance,
    Sample,
    Segments,
    has_keys,
    list_files,
)
from panoptic_dl.datasets.storage import map_samples, store_once

logger = logging.getLogger(__name__)

VERSION = 1  # of what is written; another one converts again
RECORD, NOTES = "import.json", "notes.txt"
MAX_NAMED = 10  # kinds of notes that are logged
SPREAD = 0x9E3779  # has no factor in common with NUM_IDS - 1: ids differ, and so do colors
BACKGROUND = "background"

FORMATS: dict[str, Any] = {
    "ade20k": ade20k,
    "bdd100k": bdd100k,
    "voc": voc,
    "cvat_masks": SimpleNamespace(read=voc.read, recognize=partial(voc.recognize, table=True)),
    "yolo": yolo,
    "coco_instances": coco_instances,
    "labelme": labelme,
    "masks": masks,
}
"""Readers by the name of their dataset=, in the order in which folders are recognized."""

# Datasets that need no import, by what only they have; and what cannot be read, with what to do.
MARKS = {
    "coco_format": ("annotations/panoptic_*.json", "COCO's panoptic format"),
    "cityscapes_format": ("gtFine/cityscapes_panoptic_*.json", "Cityscapes' panoptic format"),
    "cityscapes": ("cityscapes/leftImg8bit", "Cityscapes"),
    "coco": ("coco/annotations", "COCO 2017"),
    "mapillary": ("training/*/panoptic", "Mapillary Vistas"),
}
CVAT_XML = (
    "{root} is CVAT's own XML, which is not read\n  remedy:    export as COCO 1.0 "
    "(dataset=coco_instances) or as Segmentation mask 1.1 (dataset=cvat_masks)"
)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an import does where the files leave it open.

    Attributes:
        background: what no annotation covers becomes a class, "stuff", or "void".
        stuff: names of classes that are not counted; all parts of one in an image are one segment.
        overlap: which instance is on top: the smaller one, "area", or the later one, "order".
            Crowds are below all.
        crowds: "keep", or make "objects" of them: CVAT exports masks of its brush as crowds.
        empty_images: without any annotation: "keep" or "drop".
        val_fraction: of the training images where an export has no validation images.
        split_seed: of their choice.
    """

    background: str = "stuff"
    stuff: Sequence[str] = ()
    overlap: str = "area"
    crowds: str = "keep"
    empty_images: str = "keep"
    val_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        require_value("dataset.background", self.background, str, ("stuff", "void"))
        require_value("dataset.overlap", self.overlap, str, ("area", "order"))
        require_value("dataset.crowds", self.crowds, str, ("keep", "objects"))
        require_value("dataset.empty_images", self.empty_images, str, ("keep", "drop"))
        require_value("dataset.val_fraction", self.val_fraction, float, above=0, below=1)


def recognize(root: Path) -> tuple[str, str, str] | None:
    """The dataset= that reads a folder, what the folder is, and the command that trains on it.

    Of a folder that has one folder in it, as archives are unpacked, that one counts as well.
    """
    inside = [folder for folder in root.glob("[!._]*") if folder.is_dir()]
    for name, words, folder in _recognized([root, *inside] if len(inside) == 1 else [root]):
        task = "task=semantic " if name == "masks" else ""
        place = shlex.quote(f"dataset.root={folder}")
        return name, words, f"{PROGRAM} {task}dataset={name} {place}"
    return None


def _recognized(folders: Sequence[Path]) -> Iterator[tuple[str, str, Path]]:
    """Names, words and folders of all that fits: `masks` last, which most folders with masks do."""
    for name, (mark, words) in MARKS.items():
        yield from ((name, words, folder) for folder in folders if any(folder.glob(mark)))
    for folder in folders:  # by the names of LightlyTrain
        if any(
            has_keys(file, "segments_info") for file in (folder / "annotations").glob("[!.]*.json")
        ):
            yield "coco_format", MARKS["coco_format"][1], folder
    for name, reader in FORMATS.items():
        yield from ((name, words, f) for f in folders if (words := reader.recognize(f)))


def other_dataset(title: str, root: Path) -> DatasetError | None:
    """An error that says what a folder is, where that is not the dataset `title`."""
    root = Path(os.path.abspath(root))
    found = recognize(root)
    own = found and title.casefold() in (f"dataset={found[0]}", found[1].casefold())
    here = found and found[2].endswith(shlex.quote(f"dataset.root={root}"))
    if found and not (own and (found[0] in MARKS or here)):
        kind = "lies one folder deeper than" if own else "is not what lies in"
        return DatasetError(f"{title} {kind} {root}: {found[1]}\n  remedy:    {found[2]}")
    if not found and (root / "annotations.xml").is_file():
        return DatasetError(CVAT_XML.format(root=root))
    if root.is_file():
        return DatasetError(f"{title}: {root} is a file: unpack an archive, and name its folder")
    return None


def import_dataset(
    *,
    form: str,
    root: str | None,
    cache: str = "~/.cache/panoptic-dl",
    train_split: str = "train",
    test_split: str = "val",
    classes_file: str | None = None,
    reader: Mapping[str, Any] | None = None,
    **options: Any,
) -> str | None:
    """Convert two splits of a dataset, unless that was done before: for configs.

    Args:
        form: one of FORMATS.
        root: the folder of the export; None: there is none yet.
        cache: the converted folder lies in `imported/` of this one.
        train_split, test_split: their names. "val" may be missing: it is drawn from "train".
        classes_file: where there is one, the folder need not exist.
        reader: keyword arguments of the format's `read`.
        options: fields of `ImportOptions`.

    Returns:
        The folder, in COCO's panoptic format without images; None where there is nothing.

    Raises:
        DatasetError: the folder is no such export, or something in it does not fit together.
        ValueError: an option is none of its choices.
    """
    if root is None:
        return None
    base = Path(os.path.abspath(local_path(root, "dataset.root")))
    if classes_file is not None and not base.exists():
        return None
    options["stuff"] = list(options.get("stuff", ()))
    key = {
        **{"form": form, "root": str(base), "train_split": train_split, "test_split": test_split},
        **{"version": VERSION, "reader": dict(reader or {}), "options": options},
    }
    return _import(
        json.dumps(key, sort_keys=True), cache, base.stat().st_mtime_ns if base.is_dir() else 0
    )


@lru_cache(maxsize=16)  # a config asks for the folder many times
def _import(key: str, cache: str, state: int) -> str:
    parameters = json.loads(key)
    form, base = parameters["form"], Path(parameters["root"])
    options = ImportOptions(**parameters["options"])
    reader = FORMATS[form]
    official = base / getattr(reader, "FOLDER", "")  # whose own errors say where to get it
    if not base.exists() and official == base:
        near = near_names(base.parent, base.name)
        raise DatasetError(f"dataset={form}: dataset.root={base} does not exist{near}")

    def make(folder: Path) -> None:
        known = reader.recognize(base) or parameters["reader"].get("masks")
        if not known and (other := other_dataset(f"dataset={form}", base)):
            raise other
        export = reader.read(base, **parameters["reader"])
        wanted = list(dict.fromkeys((parameters["train_split"], parameters["test_split"])))
        notes = convert(export, base, folder, wanted, options)
        write_text(folder / NOTES, "".join(f"{note}\n" for note in notes))

    place = str(local_path(cache, "dataset.imported.cache") / "imported")
    files = _state(official if official.is_dir() else base)
    folder = store_once(place, form, {**parameters, "files": files}, make, RECORD)
    kinds = defaultdict(list)  # what is said of the place before it
    for note in (folder / NOTES).read_text(encoding="utf-8").splitlines():
        kinds[note.rpartition(": ")[2]].append(note)
    for first, *others in [*kinds.values()][:MAX_NAMED]:
        more = f" ({len(others)} more such, in {folder / NOTES})" if others else ""
        logger.warning("dataset=%s: %s%s", form, first, more)
    if len(kinds) > MAX_NAMED:
        logger.warning("and %d more kinds, in %s", len(kinds) - MAX_NAMED, folder / NOTES)
    return str(folder)


def _state(root: Path) -> list[int]:
    """Number of the files below a folder, and a hash of their names, sizes and times of change."""
    states = [file_state(root / path) for path in list_files(root, [""])]
    digest = hashlib.sha256(repr(states).encode(errors="replace")).hexdigest()
    return [len(states), int(digest[:15], 16)]


def convert(
    export: Export, root: Path, folder: Path, splits: Sequence[str], options: ImportOptions
) -> list[str]:
    """Write splits of an export in COCO's panoptic format, without images.

    Args:
        export: what a reader has found.
        root: the images' file names are relative to it.
        folder: gets annotations/panoptic_<split>.json and panoptic_<split>/.
        splits: names of splits that are written.

    Returns:
        Sentences on what was left out or changed.

    Raises:
        DatasetError: a split is missing, or a sample cannot be converted; names it.
    """
    categories, notes = _categories(export, root, options), list(export.notes)
    found = _with_val(export.splits, splits, options, notes)
    used: Counter[int] = Counter()
    (folder / "annotations").mkdir()
    for split in splits:
        samples = found[split]
        ids = [s.image_id for s in samples]
        if None in ids or len({*ids}) < len(ids) or len({*map(type, ids)}) > 1:
            ids = [str(_relative(s.image, root).with_suffix("")) for s in samples]
        (folder / f"panoptic_{split}").mkdir()
        jobs = [
            (sample, folder / f"panoptic_{split}" / f"{number:012d}.png", categories, options)
            for number, sample in enumerate(samples)
        ]
        images, annotations = [], []
        results = map_samples(_convert, jobs, f"converting {split}", None)
        for image_id, sample, job, result in zip(ids, samples, jobs, results, strict=True):
            (height, width), segments, of_sample = result
            notes += of_sample
            if segments is None:
                continue
            used.update(segment["category_id"] for segment in segments)
            name = _relative(sample.image, root).as_posix()
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            annotations.append(
                {"image_id": image_id, "file_name": job[1].name, "segments_info": segments}
            )
        if len(images) < len(samples):
            count = len(samples) - len(images)
            notes.append(f"{count} images of {split} have no annotation and are left out")
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / "annotations" / f"panoptic_{split}.json", json.dumps(content))
    of_objects = [c["id"] for c in categories if c["name"] != BACKGROUND]
    if export.objects_only and not any(used[number] for number in of_objects):
        raise DatasetError(f"no object in {root} has a mask: export masks or polygons, not boxes")
    if unused := [c["name"] for c in categories if not used[c["id"]]]:
        notes.append(f"no segment is of {', '.join(unused)}: classes all the same")
    return notes


def _relative(image: Path, root: Path) -> Path:
    found = Path(os.path.relpath(image, root))
    if found.parts[0] == "..":
        raise DatasetError(f"{image} is outside of dataset.root={root}: put both into one folder")
    return found


def _categories(export: Export, root: Path, options: ImportOptions) -> list[dict[str, Any]]:
    """The categories of the dataset; where one is added for the background, it is the last."""
    names = [category["name"] for category in export.categories]
    if not names:
        raise DatasetError(f"{root} has no classes: nothing is annotated")
    if unknown := [name for name in options.stuff if name not in names]:
        raise DatasetError(
            f"dataset.stuff={unknown[0]} is none of the classes: {', '.join(map(str, names))}"
        )
    categories = [
        {**c, "isthing": int(c["isthing"] and c["name"] not in options.stuff)}
        for c in export.categories
    ]
    if export.objects_only and options.background == "stuff":
        if BACKGROUND in names:
            categories[names.index(BACKGROUND)]["isthing"] = 0
        else:
            number = max(category["id"] for category in categories) + 1
            gray = [120, 120, 120]  # which no class gets that has no color
            categories.append({"id": number, "name": BACKGROUND, "isthing": 0, "color": gray})
    return [c | {"isthing": int(c["isthing"])} for c in check_categories(categories, root)]


def _with_val(
    splits: Mapping[str, list[Sample]],
    wanted: Sequence[str],
    options: ImportOptions,
    notes: list[str],
) -> dict[str, list[Sample]]:
    """The splits; "val" is drawn from "train" where it is wanted and there is none."""
    found = dict(splits)
    if "val" in wanted and "val" not in found and len(found.get("train", ())) > 1:
        samples, seed = found["train"], options.split_seed
        count = max(1, round(options.val_fraction * len(samples)))
        chosen = {*random.Random(seed).sample(range(len(samples)), min(count, len(samples) - 1))}
        found["val"] = [sample for i, sample in enumerate(samples) if i in chosen]
        found["train"] = [sample for i, sample in enumerate(samples) if i not in chosen]
        notes.append(
            f"there is no split to validate on: {count} of {len(samples)} images are drawn for it "
            f"(dataset.val_fraction={options.val_fraction:g} dataset.split_seed={seed})"
        )
    for split in wanted:
        if not found.get(split):
            names = ", ".join(f"{name} ({len(samples)})" for name, samples in found.items())
            part = "train" if split == wanted[0] else "test"
            raise DatasetError(
                f"there is no split {split!r}; the images of each: {names or 'none'}; choose by "
                f"dataset.{part}_split=NAME"
            )
    return found


def _convert(
    sample: Sample, png: Path, categories: Sequence[dict[str, Any]], options: ImportOptions
) -> tuple[tuple[int, int], list[dict[str, Any]] | None, list[str]]:
    """Write the panoptic PNG of an image: its size, its segments, and notes on what was left out.

    The segments are None where the image is left out.
    """
    size, notes = read_size(sample.image, "image"), list[str]()
    label = sample.label()
    if not label and options.empty_images == "drop":
        return size, None, notes
    if isinstance(label, list):
        ids, kinds = _paint(size, _masks(size, label, sample.image, notes), categories, options)
    else:
        ids, kinds = np.asarray(label[0], np.int64), label[1]
        require_same_size(ids.shape, f"the mask of {sample.image.name}", size, str(sample.image))
    segments = []
    for number, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
        category, crowd = kinds.pop(int(number))
        segments.append(
            {"id": int(number), "category_id": category, "iscrowd": crowd, "area": int(area)}
        )
    if hidden := len(kinds) if isinstance(label, list) else 0:
        notes.append(f"{sample.image}: {hidden} instances lie below others, and are left out")
    Image.fromarray(ids_to_colors(ids)).save(png)
    return size, segments, notes


Masks = list[tuple[NDArray[np.bool_], Instance]]


def _masks(
    size: tuple[int, int], instances: list[Instance], image: Path, notes: list[str]
) -> Masks:
    """The masks of instances; what cannot be one is named in `notes`."""
    found = []
    for number, instance in enumerate(instances):
        where = instance.where or f"{image}, instance {number}"
        segmentation = instance.segmentation
        if isinstance(segmentation, list):
            faults = [polygon_fault(polygon, size) for polygon in segmentation]
            notes += [f"{where}: {fault}; it is left out" for fault in faults if fault]
            kept = [p for p, fault in zip(segmentation, faults, strict=True) if not fault]
            if segmentation and not kept:
                continue
            segmentation = kept
        try:
            mask = decode_mask(encode_segmentation(segmentation, size), size)
        except ValueError as error:
            notes.append(f"{where}: {error}; it is left out")
            continue
        if mask.any():
            found.append((mask, instance))
        else:
            notes.append(f"{where}: no pixel of it is inside of the image; it is left out")
    return found


def _paint(
    size: tuple[int, int],
    masks: Masks,
    categories: Sequence[dict[str, Any]],
    options: ImportOptions,
) -> tuple[NDArray[np.int64], Segments]:
    """Ids (H, W), and category and crowd flag of all that was painted, also below others."""
    things = {category["id"] for category in categories if category["isthing"]}
    ids = np.zeros(size, dtype=np.int64)
    kinds: Segments = {}
    of_stuff: dict[int, int] = {}

    def new_id(category: int, crowd: int) -> int:
        number = (len(kinds) + 1) * SPREAD % (NUM_IDS - 1) + 1
        kinds[number] = category, crowd
        return number

    def order(painted: tuple[NDArray[np.bool_], Instance]) -> tuple[bool, int]:
        crowd = painted[1].iscrowd and options.crowds == "keep"
        return not crowd, -int(painted[0].sum()) if options.overlap == "area" else 0

    for mask, instance in sorted(masks, key=order):
        category = instance.category_id
        if category in things:
            number = new_id(category, instance.iscrowd if options.crowds == "keep" else 0)
        else:
            number = of_stuff.get(category) or new_id(category, 0)
            of_stuff[category] = number
        ids[mask] = number
    if options.background == "stuff" and (ids == 0).any():
        background = next(c["id"] for c in categories if c["name"] == BACKGROUND)
        ids[ids == 0] = of_stuff.get(background) or new_id(background, 0)
    return ids, kinds
