"""COCO's instances files, checked entry by entry before pycocotools or anything else sees them.

Shapes: H W pixels.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import read_json
from panoptic_dl.core.masks import encode_segmentation, polygon_fault

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow refuses larger files


@dataclass(frozen=True)
class InstancesFile:
    """What is in a file in COCO's instances format; ids, "height" and "width" are whole numbers.

    Instances of an image, in the order of the file, have "id", "category_id", "iscrowd" 0 or 1,
    and as "segmentation" a compressed run-length code; "area" and "bbox" if they were asked for.
    """

    images: dict[Hashable, dict[str, Any]]  # entries of the file by id
    categories: dict[Hashable, dict[str, Any]]  # likewise
    instances: dict[Hashable, list[dict[str, Any]]]  # by the image's id
    bad_masks: list[str] = field(default_factory=list)  # in words: no masks, and so no instances


def read_instances_file(file: Path, *, boxes: bool = False) -> InstancesFile:
    """Read a file in COCO's instances format; with `boxes`, as COCO's script needs it.

    2.0 is read as 2, which tables of pandas and Matlab make of it, and null as what is not there.
    DatasetError names an entry that is not as in that format.
    """

    def wrong(what: str) -> DatasetError:
        return DatasetError(f"{file} is no file in COCO's instances format: {what}")

    try:
        content = read_json(file)
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise wrong(str(error)) from error
    if not isinstance(content, dict):
        raise wrong("it holds no object")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise wrong(f'its "{key}" are no list of objects')
    if not content["images"]:
        raise wrong("no images are listed")
    images = _by_id(content["images"], "image", wrong)
    categories = _by_id(content["categories"], "category", wrong)
    for number, image in images.items():
        for key in ("height", "width"):
            image[key] = side = _whole(image.get(key))
            if type(side) is not int or side < 1:
                raise wrong(f'image {number!r} has the "{key}" {side!r:.40}, not a whole number')
        if image["height"] * image["width"] > MAX_PIXELS:
            sides = f"{image['width']} x {image['height']}"
            raise wrong(f"image {number!r} is {sides} pixels; {MAX_PIXELS:,} are the most")
    found = InstancesFile(images, categories, {number: [] for number in images})
    for position, annotation in enumerate(content["annotations"]):
        of, name = _whole(annotation.get("image_id")), annotation.get("id", f"at {position}")
        where = f"annotation {name!r:.40} of image {of!r:.40}"
        if "segments_info" in annotation:
            raise wrong("its labels are panoptic already")
        category, crowd = (_whole(annotation.get(key)) for key in ("category_id", "iscrowd"))
        for key, value, listed in (("image", of, images), ("category", category, categories)):
            if type(value) not in (int, str) or value not in listed:
                such = f"such as {next(iter(listed), None)!r:.40}"
                what = f'of {key} {value!r:.40}, which is not among its "{key}" ids, {such}'
                raise DatasetError(f"{file}: annotation {name!r:.40} is {what}")
        if crowd not in (None, 0, 1):
            what = f'"iscrowd" is {crowd!r:.40}; write 0 or 1, or leave it out'
            raise DatasetError(f"{file}: {where}: {what}")
        size = images[of]["height"], images[of]["width"]
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list) and segmentation:
            faults = [polygon_fault(polygon, size) for polygon in segmentation]
            found.bad_masks.extend(f"{where}: {fault}" for fault in faults if fault)
            segmentation = [p for p, fault in zip(segmentation, faults, strict=True) if not fault]
            if not segmentation:
                continue
        instance = {"id": annotation.get("id"), "category_id": category, "iscrowd": int(crowd or 0)}
        try:
            instance["segmentation"] = encode_segmentation(segmentation, size)
        except ValueError as error:
            found.bad_masks.append(f"{where}: {error}")
            continue
        if boxes:
            instance |= {key: annotation.get(key) for key in ("area", "bbox")}
            box = instance["bbox"]
            for key, value in (("iscrowd", crowd), ("area", instance["area"])):
                if not _is_number(value):
                    raise DatasetError(f'{file}: {where}: "{key}" is {value!r:.40}, no number')
            if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
                raise DatasetError(f'{file}: {where}: "bbox" is {box!r:.40}, not four numbers')
        found.instances[of].append(instance)
    return found


def _by_id(entries: list[dict[str, Any]], kind: str, wrong: Any) -> dict[Hashable, dict[str, Any]]:
    found: dict[Hashable, dict[str, Any]] = {}
    for entry in entries:
        number = _whole(entry.get("id"))
        if type(number) not in (int, str):
            raise wrong(f'{kind} {str(entry)[:80]} needs an "id", a number or text')
        if number in found:
            raise wrong(f"it lists {kind} {number!r} twice; give each its own id")
        found[number] = entry | {"id": number}
    return found


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")
