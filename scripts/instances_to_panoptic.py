"""Make panoptic labels of COCO's instances format, which annotation tools export.

    python scripts/instances_to_panoptic.py INSTANCES.json ROOT SPLIT [--stuff NAME ...]
        [--background NAME]

Writes ROOT/annotations/panoptic_SPLIT.json and ROOT/panoptic_SPLIT/, which dataset=coco_format
dataset.root=ROOT reads; the images go to ROOT/SPLIT/. Masks may overlap, and most pixels have none:
smaller masks are put over larger ones, a crowd below all; what no mask covers becomes void, or a
class of its own.

Shapes: H W pixels.
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import write_text
from panoptic_dl.core.images import NUM_IDS, ids_to_colors
from panoptic_dl.core.masks import decode_mask

SPREAD = 0x9E3779  # has no factor in common with NUM_IDS - 1: ids differ, and so do colors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="INSTANCES.json")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("split", metavar="SPLIT", help="such as train or val")
    parser.add_argument(
        "--stuff", nargs="+", default=[], metavar="NAME", help="categories that are not counted"
    )
    parser.add_argument(
        "--background",
        metavar="NAME",
        help="a new class for pixels without a mask; without it they are void: nothing is learnt "
        "of them, and the model sees one of its classes there",
    )
    given = parser.parse_args()
    try:
        done = convert_instances(
            given.source, given.root, given.split, stuff=given.stuff, background=given.background
        )
    except (DatasetError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{done['segments']} segments of {done['images']} images")
    if done["hidden"]:
        print(f"{done['hidden']} instances lie below others altogether, and are left out")


def convert_instances(
    source: Path, root: Path, split: str, *, stuff: Collection[str] = (), background: str | None
) -> dict[str, int]:
    """Write `root`/annotations/panoptic_`split`.json and PNGs into `root`/panoptic_`split`/.

    Args:
        source: JSON with "images", "annotations" and "categories" in COCO's instances format.
        root: folder of the dataset that is made.
        split: its name.
        stuff: names of categories without instances: all their masks of an image are one segment.
        background: name of a new stuff class for pixels without a mask; None: they are void, and a
            model learns nothing of them.

    Returns:
        How many "images" and "segments" were written, and how many instances were "hidden" by
        others.

    Raises:
        DatasetError: the file does not hold that, or a category is not in it.
    """
    content = _read(source)
    categories = _categories(content["categories"], source, stuff, background)
    things = {category["id"] for category in categories if category["isthing"]}
    rest = categories[-1]["id"] if background is not None else None
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        for name, listed in (("image", by_image), ("category", known)):
            number = annotation.get(f"{name}_id")
            if number not in listed:
                raise DatasetError(
                    f"{source}: annotation {annotation.get('id')} is of {name} {number!r}, which "
                    "that file does not list"
                )
        by_image[annotation["image_id"]].append(annotation)
    folder, file = root / f"panoptic_{split}", root / "annotations" / f"panoptic_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    hidden = 0
    for number, image in enumerate(content["images"]):
        ids, kinds = _paint(image, by_image[image["id"]], source, things, rest)
        segments = []
        for label, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
            category, crowd = kinds.pop(int(label))
            segments.append(
                {"id": int(label), "category_id": category, "iscrowd": crowd, "area": int(area)}
            )
        hidden += len(kinds)
        name = f"{number:012d}.png"
        Image.fromarray(ids_to_colors(ids)).save(folder / name)
        entries.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    written = {"images": content["images"], "annotations": entries, "categories": categories}
    write_text(file, json.dumps(written, ensure_ascii=False))
    segments_written = sum(len(entry["segments_info"]) for entry in entries)
    return {"images": len(entries), "segments": segments_written, "hidden": hidden}


def _read(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_bytes())
        images, annotations = content["images"], content["annotations"]
        if not images or any("segments_info" in annotation for annotation in annotations):
            raise ValueError("no images are listed, or labels are panoptic already")
        if not all({"id", "file_name", "height", "width"} <= image.keys() for image in images):
            raise ValueError('an image has no "id", "file_name", "height" or "width"')
        if not all({"id", "name"} <= category.keys() for category in content["categories"]):
            raise ValueError('a category has no "id" or "name"')
    except OSError as error:
        raise DatasetError(f"cannot read {source}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{source} is no file in COCO's instances format: {error}") from error
    return dict(content)


def _categories(
    listed: list[dict[str, Any]], source: Path, stuff: Collection[str], background: str | None
) -> list[dict[str, Any]]:
    names = [category["name"] for category in listed]
    unknown = sorted(set(stuff) - set(names))
    if unknown:
        raise DatasetError(f"{source} has no category {unknown[0]!r}; it has {', '.join(names)}")
    if background in names:
        raise DatasetError(
            f"{source} has a category {background!r} already: name the background otherwise, or "
            "name that category as stuff"
        )
    categories = [
        {
            "id": category["id"],
            "name": category["name"],
            "isthing": int(category["name"] not in stuff),
        }
        for category in listed
    ]
    if background is not None:
        number = max((category["id"] for category in categories), default=0) + 1
        categories.append({"id": number, "name": background, "isthing": 0})
    return categories


def _paint(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    source: Path,
    things: Collection[int],
    rest: int | None,
) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Ids (H, W), and category and crowd flag of all that was painted, also below others."""
    size = image["height"], image["width"]
    masks = [(annotation, _mask(annotation, size, source)) for annotation in annotations]
    masks.sort(key=lambda pair: (not pair[0].get("iscrowd", 0), -int(pair[1].sum())))
    ids = np.zeros(size, dtype=np.int64)
    kinds: dict[int, tuple[int, int]] = {}
    of_stuff: dict[int, int] = {}

    def new_id(category: int, crowd: int) -> int:
        label = (len(kinds) + 1) * SPREAD % (NUM_IDS - 1) + 1
        kinds[label] = category, crowd
        return label

    for annotation, mask in masks:
        category = annotation["category_id"]
        if category in things:
            label = new_id(category, int(annotation.get("iscrowd", 0)))
        else:
            label = of_stuff.get(category) or new_id(category, 0)
            of_stuff[category] = label
        ids[mask] = label
    if rest is not None and (ids == 0).any():
        ids[ids == 0] = new_id(rest, 0)
    return ids, kinds


def _mask(annotation: dict[str, Any], size: tuple[int, int], source: Path) -> np.ndarray:
    where = f"{source}: annotation {annotation.get('id')} of image {annotation['image_id']!r}"
    encoded = annotation.get("segmentation")
    if not encoded:
        raise DatasetError(f"{where} has a box and no mask; panoptic labels need the pixels")
    try:
        if isinstance(encoded, list):
            mask: np.ndarray = mask_util.decode(
                mask_util.merge(mask_util.frPyObjects(encoded, *size))
            )
            return mask.astype(bool)
        return decode_mask(encoded, size)
    except Exception as error:  # pycocotools raises no class of its own
        raise DatasetError(f"{where} has a mask that cannot be read ({error})") from error


if __name__ == "__main__":
    main()
