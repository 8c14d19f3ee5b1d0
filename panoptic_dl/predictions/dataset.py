"""What prediction files have to know of a dataset: its images, and the dataset's own category ids.

Contiguous categories, 0..K-1, are those of models; dataset ids are those of files.

What readers of predictions share: JSON that may be torn, and the size of the image.

Which predictions lie in a folder, under whatever names their authors gave them.

    COCO and Cityscapes  panoptic/*.json, or panoptic_*.json, cityscapes_panoptic_*.json
    COCO                 instances/*.json, or detections_*.json; semantic/*.json, or stuff_*.json
    Cityscapes           <image id>*.txt in instances/, <image id>*.png in semantic/, at any depth

Cityscapes' files may also lie in the folder itself: with texts they are instances, and PNGs are
masks; without texts, and without a panoptic file that owns them, PNGs are label ids.
"""

import json
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cityscapesscripts.helpers.labels import name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import unreadable
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, image_id


@dataclass(frozen=True)
class PredictedDataset:
    """A dataset as prediction files see it.

    Attributes:
        name: in Detectron2's catalogs.
        cityscapes: whether files are those of Cityscapes' scripts; else those of COCO.
        split: "val2017", "val", for names of files.
        images: what names an image (`image`), and the stem of the names of its files.
        dataset_ids: dataset id of each contiguous category.
        things: contiguous categories with instances; None for a dataset of the semantic task.
        instance_ids: dataset id of each class of "instances".
        label_divisor: of panoptic maps.
    """

    name: str
    cityscapes: bool
    split: str
    images: Mapping[Hashable, str]
    dataset_ids: Mapping[int, int]
    things: frozenset[int] | None
    instance_ids: Mapping[int, int]
    label_divisor: int

    @property
    def contiguous(self) -> dict[int, int]:
        """Contiguous category of each dataset id."""
        return {dataset_id: category for category, dataset_id in self.dataset_ids.items()}

    def image(self, item: Mapping[str, Any]) -> Hashable:
        """What names the image of a model's input: Cityscapes' id, or COCO's number."""
        if self.cityscapes:
            return image_id(item["file_name"])
        image: Hashable = item["image_id"]
        return image

    def advice(self) -> str:
        """What to check when a category is unknown."""
        if self.cityscapes:
            return (
                "files hold Cityscapes' label ids (7 road, 26 car), not train ids (0 road, 13 car)"
            )
        return "files hold the dataset's own ids, with their gaps, not classes counted from 0"


def look_up(dataset: str, records: Sequence[Mapping[str, Any]] | None = None) -> PredictedDataset:
    """Look up a dataset of Detectron2's catalogs.

    Args:
        dataset: one whose metadata has `gt_dir` (Cityscapes), `panoptic_json` or `json_file` (COCO,
            and whatever lies on disk as it does).
        records: those of its images that are predicted; None: all.

    Raises:
        EvaluationError: its metadata has none of them, or two of its images share a name.
    """
    metadata = MetadataCatalog.get(dataset)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    cityscapes = metadata.get("gt_dir") is not None
    listed = metadata.get("panoptic_json") or metadata.get("json_file")
    if cityscapes:
        split = Path(metadata.gt_dir).name
        dataset_ids = {label.trainId: label.id for label in EVALUATED}
        instance_ids = {
            index: name2label[name].id for index, name in enumerate(metadata.thing_classes)
        }
    elif listed:
        split = Path(listed).stem.removeprefix("panoptic_").removeprefix("instances_")
        categories = {**metadata.get("stuff_dataset_id_to_contiguous_id", {}), **(things or {})}
        dataset_ids = {category: dataset_id for dataset_id, category in categories.items()}
        instance_ids = {category: dataset_id for dataset_id, category in (things or {}).items()}
    else:
        raise EvaluationError(
            f"no format of prediction files is known for {dataset}: its metadata must have gt_dir "
            "(Cityscapes), panoptic_json or json_file (COCO)"
        )
    images: dict[Hashable, str] = {}
    for record in DatasetCatalog.get(dataset) if records is None else records:
        if cityscapes:
            image = image_id(record["file_name"])
            images[image] = image
        else:
            images[record["image_id"]] = Path(record["file_name"]).stem
    owners: dict[str, Hashable] = {}
    for image_, stem in images.items():
        if stem in owners:
            raise EvaluationError(
                f"images {owners[stem]} and {image_} of {dataset} are both called {stem}: their "
                "predictions would have one file; rename one of them"
            )
        owners[stem] = image_
    return PredictedDataset(
        name=dataset,
        cityscapes=cityscapes,
        split=split,
        images=images,
        dataset_ids=dataset_ids,
        things=None if things is None else frozenset(things.values()),
        instance_ids=instance_ids,
        label_divisor=int(metadata.get("label_divisor", 1000)),
    )


AGAIN = "unpack or download it again, or predict again"


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        EvaluationError: it cannot be read, or is none.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise EvaluationError(f"{file} is no readable JSON file ({error}); {AGAIN}") from error


def entries_of(file: Path, content: Any, keys: Mapping[str, tuple[type, ...]]) -> list[Any]:
    """Check that a JSON file holds a list of objects with these keys, of these types.

    Raises:
        EvaluationError: it does not.
    """
    if not isinstance(content, list):
        raise EvaluationError(
            f"{file} holds no list of predictions: is it an annotation file? {AGAIN}"
        )
    for position, entry in enumerate(content):
        for key, types in keys.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, types) or isinstance(value, bool):
                raise EvaluationError(
                    f'{file}: entry {position} has no valid "{key}"; write it in COCO\'s format of '
                    "results, with a number or text as the format says"
                )
    return content


def size_of(item: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a model's input as a file; read from the file where the item says neither.

    Raises:
        EvaluationError: the file cannot be read.
    """
    if "height" in item and "width" in item:
        return int(item["height"]), int(item["width"])
    try:
        with Image.open(item["file_name"]) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise unreadable([Path(item["file_name"])], error) from error


def require_size(file: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise `EvaluationError` unless a picture has the size of the image, (height, width)."""
    if found != size:
        raise EvaluationError(
            f"{file} is {found}, the image {size} (height, width): predict at the size of the "
            "image file"
        )


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
    """Files below a folder; not in folders of skipped names, nor in those of JSON files."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in skipped and not Path(place, f"{name}.json").exists()
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
