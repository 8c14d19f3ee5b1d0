"""From panoptic JSON files of anybody to Detectron2's records, every entry looked at."""

import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath
from typing import Any

from panoptic_dl.data.catalog.categories import GUIDE
from panoptic_dl.data.catalog.registry import Record
from panoptic_dl.data.errors import DatasetError

logger = logging.getLogger(__name__)

NUM_IDS = 256**3  # of segments: R + 256 G + 256^2 B; 0 is void


def listed_images(content: dict[str, Any], file: Path) -> dict[Any, dict[str, Any]]:
    """The images that have an annotation, by id.

    Raises:
        DatasetError: ids are missing, come twice or are not of one kind, or an annotation is of an
            image that is not listed.
    """
    images: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        number = image.get("id")
        if type(number) not in (int, str):
            raise DatasetError(
                f'{file}: image {str(image)[:80]} needs an "id", a number or text; {GUIDE}'
            )
        if number in images:
            raise DatasetError(f"{file} lists image {number!r} twice; give each image its own id")
        images[number] = image
    if len({type(number) for number in images}) > 1:
        raise DatasetError(f"{file}: some image ids are numbers and some texts; write one kind")
    labelled: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        number = annotation.get("image_id")
        if "segments_info" not in annotation:
            raise DatasetError(
                f"{file}: an annotation of image {number!r} has no segments_info: this is no "
                "panoptic file. One of instances or detections is converted as in "
                "docs/custom_dataset.md"
            )
        if type(number) not in (int, str) or number not in images:
            raise DatasetError(
                f'{file}: an annotation is of image {number!r}, which is not among its "images"; '
                "list that image or remove the annotation"
            )
        if number in labelled:
            raise DatasetError(
                f"{file} has two annotations of image {number!r}; put all segments of an image in "
                "one"
            )
        labelled[number] = images[number]
    if len(labelled) < len(images):
        odd = next(number for number in images if number not in labelled)
        logger.warning(
            "%s: %d of its %d images have no annotation and are left out, such as %r",
            file,
            len(images) - len(labelled),
            len(images),
            odd,
        )
    return labelled


def label_names(content: dict[str, Any], file: Path) -> dict[Any, str]:
    """File name of the PNG of each annotated image.

    Raises:
        DatasetError: one is missing, or leads out of the folder.
    """
    where = f'{file}: "file_name" of the annotation of image'
    return {
        annotation["image_id"]: inside(
            annotation.get("file_name"), f"{where} {annotation['image_id']!r}"
        )
        for annotation in content["annotations"]
    }


def records_of(
    content: dict[str, Any],
    file: Path,
    contiguous: dict[int, int],
    num_things: int,
    images: dict[Any, str],
    labels: dict[Any, str],
) -> list[Record]:
    """Detectron2's records, in the order of the annotations.

    Args:
        content: of the panoptic JSON file.
        file: its name, for messages.
        contiguous: contiguous id of each category id, things first.
        num_things: how many are things.
        images, labels: path of the picture and of the PNG of each image id.

    Raises:
        DatasetError: a segment has an unknown category, or an id that cannot be or comes twice.
    """
    listed = {image["id"]: image for image in content["images"]}
    records: list[Record] = []
    for annotation in content["annotations"]:
        number = annotation["image_id"]
        record: Record = {
            "file_name": images[number],
            "image_id": number,
            "pan_seg_file_name": labels[number],
            "segments_info": _segments(annotation, file, contiguous, num_things),
        }
        # Upright and lying images are told apart without opening them, where sizes are listed.
        size = {side: listed[number].get(side) for side in ("height", "width")}
        if all(type(value) is int and value > 0 for value in size.values()):
            record |= size
        records.append(record)
    return records


def _segments(
    annotation: dict[str, Any], file: Path, contiguous: dict[int, int], num_things: int
) -> list[dict[str, Any]]:
    segments: dict[int, dict[str, Any]] = {}
    if not isinstance(annotation["segments_info"], list):
        raise DatasetError(
            f"{file}: segments_info of image {annotation['image_id']!r} is no list; {GUIDE}"
        )
    for segment in annotation["segments_info"]:
        number, category = segment.get("id"), segment.get("category_id")
        where = f"{file}: segment {number!r} of {annotation['file_name']}"
        if type(number) is not int or not 0 < number < NUM_IDS:
            raise DatasetError(
                f"{where}: ids are whole numbers from 1 to {NUM_IDS - 1}, R + 256 G + 65536 B of "
                "the PNG; 0 is void"
            )
        if number in segments:
            raise DatasetError(f"{where} is listed twice: give each segment of an image its own id")
        if type(category) is not int or category not in contiguous:
            raise DatasetError(
                f'{where} has the category_id {category!r}, which is not among the "categories" '
                "of that file; list it there, or correct the segment"
            )
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f'{where}: "iscrowd" is {crowd!r}; write 0 or 1, or leave it out')
        checked = {
            "id": number,
            "category_id": contiguous[category],
            "iscrowd": int(crowd),
            "isthing": contiguous[category] < num_things,
        }
        segments[number] = checked | ({"area": segment["area"]} if "area" in segment else {})
    return list(segments.values())


def inside(name: Any, where: str) -> str:
    """A relative file name, in its shortest form.

    Raises:
        DatasetError: it is none, or leads out of the folder that it is relative to: a file of
            annotations that was downloaded must not choose what is read.
    """
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{where} is {name!r}; write the name of the file; {GUIDE}")
    shortest = os.path.normpath(name)
    if os.path.isabs(name) or PurePath(shortest).parts[:1] == ("..",):
        raise DatasetError(
            f"{where} is {name!r}; write it relative to the folder of these files, and inside it"
        )
    return shortest


def files_there(folder: Path, names: Iterable[str]) -> set[str]:
    """Which of `names`, relative to `folder`, are files; each folder is listed once."""
    found: set[str] = set()
    listings: dict[str, Collection[str]] = {}
    for name in names:
        parent, _, leaf = name.rpartition("/")
        if parent not in listings:
            place = folder / parent
            listings[parent] = set(os.listdir(place)) if place.is_dir() else ()
        if leaf in listings[parent]:
            found.add(name)
    return found
