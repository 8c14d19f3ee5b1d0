"""COCO's masks and instances files, checked: pycocotools makes random pixels of what is damaged.

Shapes: H W pixels.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import read_json

OFFSET = 48  # of the characters of compressed codes
MORE, SIGN = 0x20, 0x10
FAR = 10  # widths or heights: pycocotools takes memory for each pixel of an edge, also outside
DAMAGED = "a mask has a damaged run-length code"
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow refuses larger files


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask, (H, W) bool: "size" [H, W] and "counts", fit for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_mask(code: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read what JSON holds, a code, compressed or as a list of counts: (H, W) bool.

    ValueError: it is no run-length code, is not of `size` (height, width), or does not end where
    the mask ends.
    """
    runs = _runs(code, size)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The compressed code of an annotation's "segmentation": polygons, or a code of either kind.

    Polygons have no `polygon_fault`, `size` is (height, width). ValueError says why it cannot be a
    mask of that image.
    """
    if not segmentation:
        raise ValueError("it has a box and no mask, and the pixels are needed")
    if isinstance(segmentation, dict):
        runs = _runs(segmentation, size)
        code = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    elif not isinstance(segmentation, list):
        raise ValueError('its "segmentation" is neither polygons nor a run-length code')
    else:
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    return {"size": list(size), "counts": code["counts"].decode("ascii")}


def polygon_fault(polygon: Any, size: tuple[int, int]) -> str:
    """Why something is no polygon [x, y, x, y, ...] in an image of (height, width); "" if it is."""
    numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        return f"a polygon is {polygon!r:.40}, not [x, y, x, y, ...] of three points or more"
    for start, side in ((0, size[1]), (1, size[0])):
        for value in polygon[start::2]:
            if not -FAR * side <= value <= (FAR + 1) * side:  # NaN neither
                return (
                    f"a polygon has the coordinate {value!r:.20}, far outside of an image of "
                    f"{size[1]} x {size[0]} (width x height)"
                )
    return ""


def _runs(code: Any, size: tuple[int, int]) -> list[int]:
    """Pixels of each run of a code as JSON holds it; see `decode_mask`."""
    if not isinstance(code, dict) or "size" not in code or "counts" not in code:
        raise ValueError(
            'a "segmentation" is no run-length code (size and counts); encode polygons with '
            "pycocotools' mask.frPyObjects"
        )
    listed, counts = code["size"], code["counts"]
    if not isinstance(listed, list) or listed != list(size):
        listed = tuple(listed) if isinstance(listed, list) else repr(listed)
        raise ValueError(
            f"a mask is {listed}, the image {size} (height, width): masks must have the size of "
            "the image file"
        )
    if isinstance(counts, str):
        runs = run_lengths(counts)
    else:
        runs = [_whole(count) for count in counts] if isinstance(counts, list) else []
    is_code = all(type(run) is int and run >= 0 for run in runs)
    if not is_code or sum(runs) != size[0] * size[1]:
        raise ValueError(f"{DAMAGED}: its counts do not add up to the mask")
    return runs


def run_lengths(counts: str) -> list[int]:
    """Pixels of each run of a compressed code, from groups of five bits, lowest first.

    From the fourth run on they are differences to the run two before. ValueError for a character
    that no code has, or an end within a number.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - OFFSET
        if not 0 <= group < 2 * MORE or shift > 60:
            raise ValueError(f"{DAMAGED}: {character!r} is a character that no code has there")
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & MORE:
            if group & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError(f"{DAMAGED}: it ends too early")
    return runs


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
    images = entries_by_id(content["images"], "image", wrong)
    categories = entries_by_id(content["categories"], "category", wrong)
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
            box = instance["bbox"] if isinstance(instance["bbox"], list) else []
            if len(box) != 4 or not all(map(_is_number, (crowd, instance["area"], *box))):
                what = '"iscrowd" and "area" must be numbers, "bbox" four of them'
                raise DatasetError(f"{file}: {where}: {what}")
        found.instances[of].append(instance)
    return found


def entries_by_id(
    entries: list[dict[str, Any]], kind: str, wrong: Callable[[str], DatasetError]
) -> dict[Hashable, dict[str, Any]]:
    """Entries of a `kind` ("image", say) by their ids; `wrong` makes the error of one without."""
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
