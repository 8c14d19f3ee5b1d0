"""Make panoptic labels of COCO's instances format, which annotation tools export.

    python scripts/instances_to_panoptic.py INSTANCES.json ROOT SPLIT [--stuff NAME ...]
        [--background NAME] [--skip-bad-masks]

Writes ROOT/annotations/panoptic_SPLIT.json and ROOT/panoptic_SPLIT/, which dataset=coco_format
dataset.root=ROOT reads; the images go to ROOT/SPLIT/. Masks may overlap, and most pixels have none:
smaller masks are put over larger ones, a crowd below all; what no mask covers becomes void, or a
class of its own. Nothing is written unless all of the file can be used.

Shapes: H W pixels.
"""

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_dl.core.errors import DatasetError, one_line_errors
from panoptic_dl.core.files import local_path, write_text
from panoptic_dl.core.headers import check_records
from panoptic_dl.core.images import NUM_IDS, ids_to_colors
from panoptic_dl.core.instances import InstancesFile, read_instances_file
from panoptic_dl.core.masks import decode_mask

MAX_NAMED = 10
SPREAD = 0x9E3779  # has no factor in common with NUM_IDS - 1: ids differ, and so do colors


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=local_path, metavar="INSTANCES.json")
    parser.add_argument("root", type=local_path, metavar="ROOT", help="folder of the dataset")
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
    parser.add_argument(
        "--skip-bad-masks",
        action="store_true",
        help="leave out what cannot be a mask, such as stray points and boxes, and say so",
    )
    given = parser.parse_args()
    done = convert_instances(
        given.source,
        given.root,
        given.split,
        stuff=given.stuff,
        background=given.background,
        skip_bad_masks=given.skip_bad_masks,
    )
    print("\n".join(done))
    print(_ask_the_reader(given.root, given.split))


def convert_instances(
    source: Path,
    root: Path,
    split: str,
    *,
    stuff: Collection[str] = (),
    background: str | None,
    skip_bad_masks: bool = False,
) -> list[str]:
    """Write `root`/annotations/panoptic_`split`.json and PNGs into `root`/panoptic_`split`/.

    Args:
        source: JSON with "images", "annotations" and "categories" in COCO's instances format.
        root: folder of the dataset that is made.
        split: its name.
        stuff: names of categories without instances: all their masks of an image are one segment.
        background: name of a new stuff class for pixels without a mask; None: they are void, and a
            model learns nothing of them.
        skip_bad_masks: leave out polygons, and annotations, that cannot be masks.

    Returns:
        Lines for people: what was written, and all that was left out.

    Raises:
        DatasetError: the file does not hold that, or `dataset=coco_format` would not take it.
    """
    from panoptic_dl.datasets.custom import FORMATS, listed_images  # takes seconds: imports torch

    content = read_instances_file(source)
    if content.bad_masks and not skip_bad_masks:
        raise DatasetError(
            f"{source}: {content.bad_masks[0]}; {len(content.bad_masks)} such masks: correct "
            "them, or leave them out by --skip-bad-masks"
        )
    categories = _categories(content, source, stuff, background)
    images = listed_images({"images": list(content.images.values())}, source)
    FORMATS["coco_format"].find_images(root / split, images, source)  # checks their names
    folder, file = root / f"panoptic_{split}", root / "annotations" / f"panoptic_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # of an earlier conversion: it does not fit the new PNGs
    entries: list[dict[str, Any]] = []
    empty = hidden = 0
    for number, (image_id, image) in enumerate(images.items()):
        size = image["height"], image["width"]
        masks = [(decode_mask(i["segmentation"], size), i) for i in content.instances[image_id]]
        seen = [(mask, instance) for mask, instance in masks if mask.any()]
        empty += len(masks) - len(seen)
        ids, kinds = _paint(size, seen, categories, background is not None)
        segments = []
        for label, area in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True):
            category, crowd = kinds.pop(int(label))
            segments.append(
                {"id": int(label), "category_id": category, "iscrowd": crowd, "area": int(area)}
            )
        hidden += len(kinds)
        name = f"{number:012d}.png"
        Image.fromarray(ids_to_colors(ids)).save(folder / name)
        entries.append({"image_id": image_id, "file_name": name, "segments_info": segments})
    written = {"images": list(images.values()), "annotations": entries, "categories": categories}
    write_text(file, json.dumps(written, ensure_ascii=False))
    lines = [f"{sum(len(e['segments_info']) for e in entries)} segments of {len(entries)} images"]
    if content.bad_masks:
        lines.append(f"{len(content.bad_masks)} bad masks, or polygons of masks, are left out:")
        lines += [f"  {what}" for what in content.bad_masks[:MAX_NAMED]]
        if len(content.bad_masks) > MAX_NAMED:
            lines.append(f"  and {len(content.bad_masks) - MAX_NAMED} more")
    if empty:
        lines.append(f"{empty} instances have no pixel inside of their image, and are left out")
    if hidden:
        lines.append(f"{hidden} instances lie below others altogether, and are left out")
    used = {i["category_id"] for of_image in content.instances.values() for i in of_image}
    if unused := [c["name"] for c in content.categories.values() if c["id"] not in used]:
        lines.append(
            f"no instance is of {', '.join(unused)}: classes all the same, unless taken out of "
            "the file"
        )
    return lines


def _categories(
    content: InstancesFile, source: Path, stuff: Collection[str], background: str | None
) -> list[dict[str, Any]]:
    """The categories of the dataset, which its reader has found right; the background is last."""
    from panoptic_dl.datasets.categories import check_categories

    listed = [
        {"id": c["id"], "name": c.get("name"), "isthing": int(c.get("name") not in stuff)}
        for c in content.categories.values()
    ]
    names = [category["name"] for category in check_categories(listed, source)]
    unknown = sorted(set(stuff) - set(names))
    if unknown:
        raise DatasetError(f"{source} has no category {unknown[0]!r}; it has {', '.join(names)}")
    if background in names:
        raise DatasetError(
            f"{source} has a category {background!r} already: name the background otherwise, or "
            "name that category as stuff"
        )
    if background is not None:
        number = max((category["id"] for category in listed), default=0) + 1
        listed.append({"id": number, "name": background, "isthing": 0})
    check_categories(listed, source)
    return listed


def _paint(
    size: tuple[int, int],
    masks: Sequence[tuple[np.ndarray, dict[str, Any]]],
    categories: Sequence[dict[str, Any]],
    background: bool,
) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Ids (H, W), and category and crowd flag of all that was painted, also below others."""
    things = {category["id"] for category in categories if category["isthing"]}
    ids = np.zeros(size, dtype=np.int64)
    kinds: dict[int, tuple[int, int]] = {}
    of_stuff: dict[int, int] = {}

    def new_id(category: int, crowd: int) -> int:
        label = (len(kinds) + 1) * SPREAD % (NUM_IDS - 1) + 1
        kinds[label] = category, crowd
        return label

    for mask, instance in sorted(masks, key=lambda m: (not m[1]["iscrowd"], -int(m[0].sum()))):
        category = instance["category_id"]
        if category in things:
            label = new_id(category, instance["iscrowd"])
        else:
            label = of_stuff.get(category) or new_id(category, 0)
            of_stuff[category] = label
        ids[mask] = label
    if background and (ids == 0).any():
        ids[ids == 0] = new_id(categories[-1]["id"], 0)
    return ids, kinds


def _ask_the_reader(root: Path, split: str) -> str:
    """Whether `dataset=coco_format` takes the split, in a line for people.

    Raises:
        DatasetError: it does not, although there is a folder of images.
    """
    from detectron2.data import DatasetCatalog  # imports torch, which takes seconds

    from panoptic_dl.datasets.categories import read_categories
    from panoptic_dl.datasets.custom import FORMATS, custom_dataset

    places = FORMATS["coco_format"].images[:-1]  # the last is root itself
    if not any((root / place.format(split=split)).is_dir() for place in places):
        return (
            f"not ready yet: put the images into {root / split} and run this again, which asks the "
            "reader about them"
        )
    classes = read_categories([root / "annotations" / f"panoptic_{split}.json"])
    name = custom_dataset(
        form="coco_format",
        task="panoptic",
        part="train",
        classes=classes,
        root=str(root),
        split=split,
    )
    check_records(split, DatasetCatalog.get(name))
    return f"ready: dataset=coco_format dataset.root={root}"


if __name__ == "__main__":
    main()
