"""Which predictions lie in a folder, under whatever names their authors gave them.

    COCO and Cityscapes  panoptic/*.json, or panoptic_*.json, cityscapes_panoptic_*.json
    COCO                 instances/*.json, or detections_*.json; semantic/*.json, or stuff_*.json
    Cityscapes           <image id>*.txt in instances/, <image id>*.png in semantic/, at any depth

Cityscapes' files may also lie in the folder itself: with texts they are instances, and PNGs are
masks; without texts, and without a panoptic file that owns them, PNGs are label ids.
"""

import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.dataset import PredictedDataset

KINDS = ("panoptic", "instances", "semantic")
JSON_PATTERNS = {
    "panoptic": ("panoptic_*.json", "cityscapes_panoptic_*.json"),
    "instances": ("detections_*.json",),
    "semantic": ("stuff_*.json",),
}
SUFFIXES = {"instances": ".txt", "semantic": ".png"}
IMAGE_ID = re.compile(r"[^_]+_[^_]+_\d+")  # <city>_<sequence>_<frame>

CityFiles = tuple[Path, Mapping[Hashable, Sequence[Path]]]
"""A folder and its files by image."""


def find_json(folder: Path, kind: str) -> Path | None:
    """The JSON file of a kind; None if there is none.

    Raises:
        EvaluationError: there are several.
    """
    found = set((folder / kind).glob("*.json"))
    for pattern in ("*.json",) if folder.name == kind else JSON_PATTERNS[kind]:
        found |= set(folder.glob(pattern))
    files = sorted(file for file in found if not file.name.startswith("."))
    if len(files) > 1:
        names = ", ".join(str(file) for file in files)
        raise EvaluationError(
            f"there are {len(files)} files of {kind} predictions: {names}; keep one, or name a "
            "folder that holds one"
        )
    return files[0] if files else None


def find_city_files(dataset: PredictedDataset, folder: Path, kind: str) -> CityFiles | None:
    """Cityscapes' files of a kind; None if there is none."""
    if (folder / kind).is_dir():
        root = folder / kind
        files = _of_images(dataset, _walk(root, ()))
    else:
        root = folder
        files = _of_images(dataset, _walk(root, KINDS))
        if kind == "semantic" and _owns_pictures(dataset, folder, files):
            return None
    mine = {
        image: [file for file in several if file.suffix == SUFFIXES[kind]]
        for image, several in files.items()
    }
    return (root, mine) if any(mine.values()) else None


def one_file(files: CityFiles, image: Hashable, suffix: str) -> Path:
    """The only file of an image.

    Raises:
        EvaluationError: there is none, or several.
    """
    root, by_image = files
    found = by_image.get(image, ())
    if not found:
        raise EvaluationError(
            f"no prediction for image {image}: no file {image}*{suffix} below {root}; predict the "
            "whole split"
        )
    if len(found) > 1:
        raise EvaluationError(
            f"several predictions for image {image}: {found[0]} and {found[1]}; keep one"
        )
    return found[0]


def picture_folder(file: Path) -> Path:
    """Where the pictures of a panoptic JSON file lie: in the folder of its name, or beside it."""
    own = file.with_suffix("")
    return own if own.is_dir() else file.parent


def _walk(root: Path, skipped: Sequence[str]) -> Iterator[Path]:
    """Files below a folder; without folders directly in it that are skipped, or a JSON file's."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not (Path(place) == root and name in skipped)
            and not Path(place, f"{name}.json").exists()
        )
        yield from (Path(place, name) for name in sorted(files))


def _of_images(dataset: PredictedDataset, files: Iterator[Path]) -> dict[Hashable, list[Path]]:
    found: dict[Hashable, list[Path]] = {}
    for file in files:
        name = IMAGE_ID.match(file.name)
        if name and name[0] in dataset.images and file.suffix in SUFFIXES.values():
            found.setdefault(name[0], []).append(file)
    return found


def _owns_pictures(
    dataset: PredictedDataset, folder: Path, files: Mapping[Hashable, Sequence[Path]]
) -> bool:
    """Whether PNGs in the folder itself are masks of instances, or panoptic."""
    if any(file.suffix == ".txt" for several in files.values() for file in several):
        return True
    panoptic = find_json(folder, "panoptic")
    return panoptic is not None and picture_folder(panoptic) == folder
