"""Images and one mask each: PNGs of class ids, in gray or a palette, or of colors with a table.

    images/<name>.jpg, masks/<name>.png               also below, or above, train/, val/, test/
    train/<name>.png, train_labels/<name>_L.png       and so on
    <split>/<name>.jpg, <split>/<name>_mask.png       Roboflow, with _classes.csv

Folders and masks may have any of the usual names and endings; splits are folders, or lists of
names: train.txt, val.txt. `class_tables.py` says how classes are named.
"""

import re
from functools import partial
from pathlib import Path, PurePosixPath

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.base import (
    IMAGES,
    JPEG,
    Export,
    Sample,
    by_split,
    list_files,
    split_of,
)
from panoptic_dl.datasets.formats.class_tables import classes_of_masks, read_mask

IMAGE_FOLDER = re.compile(r"images?|imgs?|img_dir|jpegimages|leftimg8bit|inputs?|photos", re.I)
MASK_FOLDER = re.compile(
    r"masks?|labels?|annotations?|annots?|ann_dir|gt(fine)?|ground_truth|targets?|seg"
    r"|segmentations?|segmentationclass",
    re.I,
)
MASK_ENDING = re.compile(r"[_-](masks?|labels?|gt|seg|ann(otation)?|(gtFine_)?labelIds|L|P)$")
IMAGE_ENDING = re.compile(r"_(leftImg8bit|image|img)$")
JOINED = re.compile(
    r"(?<![^/])(train|valid|val|test)[_-]?(images?|masks?|labels?|annot)(?![^/])", re.I
)
WHICH = "or say which files are masks: dataset.masks='*_suffix.png'"

Files = dict[str, PurePosixPath]


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is none of these."""
    try:
        masks, images = _pair(root, None)
    except DatasetError:  # of two files of one name
        return ""
    count = len(masks.keys() & images.keys())
    return f"{count:,} images with a mask each" if 2 * count > len(images) else ""


def read(
    root: Path,
    *,
    masks: str | None = None,
    names: str | None = None,
    mask_ignore_label: int | None = 255,
) -> Export:
    """Images with their masks, all classes without instances.

    Args:
        masks: pattern of the masks' paths, where they are not found by folder or ending:
            "gtFine/*/*_labelIds.png". What follows its last * is no part of the image's name.
        names: file of classes; None: one in `root` that is called so, else classes are numbers.
        mask_ignore_label: number, in masks, of pixels without a class.

    Raises:
        DatasetError: there are no pairs, a file has no other or several, or a table is missing.
    """
    of_mask, of_image = _pair(root, masks)
    if not of_mask.keys() & of_image.keys():
        raise DatasetError(
            f"no images with masks below {root}: put images into images/ and masks of the same "
            f"names, as PNG, into masks/, {WHICH}"
        )
    paths = of_image | of_mask
    single = sorted(of_mask.keys() ^ of_image.keys())  # images to test on need no mask
    if alone := [key for key in single if split_of(_apart(paths[key])) != "test"]:
        file = root / paths[alone[0]]
        what = "image" if alone[0] in of_mask else "mask"
        raise DatasetError(
            f"{file} has no {what} ({len(alone)} such files): add it, remove the file, {WHICH}"
        )
    of_mask = {key: mask for key, mask in of_mask.items() if key in of_image}
    files = [root / mask for mask in of_mask.values()]
    table, notes = classes_of_masks(root, files, names, mask_ignore_label)
    categories = [{"id": n, "isthing": 0} | row for n, row in table.items()]
    lists, samples = _lists(root), []
    for key, mask in of_mask.items():
        image = of_image[key]
        label = partial(read_mask, root / mask, table, mask_ignore_label)
        split = split_of(_apart(image)) or lists.get(image.name) or lists.get(image.stem)
        if split or "train" not in lists.values():
            samples.append((split, Sample(root / image, label)))
    if others := len(of_mask) - len(samples):
        notes.append(f"{others} of {len(of_mask)} images are in no list of names, and are left out")
    return Export(categories, by_split(samples), notes)


def _pair(root: Path, pattern: str | None) -> tuple[Files, Files]:
    """Masks, and images, by what the paths of the two have in common."""
    ending = PurePosixPath((pattern or "").rpartition("*")[2]).stem
    of_mask: Files = {}
    of_image: Files = {}
    paths = list_files(root, IMAGES)
    some = any(IMAGE_FOLDER.fullmatch(part) for path in paths for part in _apart(path).parts[:-1])
    for path in paths:
        inside = _apart(path).parts[:-1]
        in_masks = any(map(MASK_FOLDER.fullmatch, inside))
        is_mask = path.suffix.lower() not in JPEG and (
            in_masks or MASK_ENDING.search(path.stem) is not None
        )
        if is_mask if pattern is None else path.match(pattern):
            stem = path.stem.removesuffix(ending) if ending else MASK_ENDING.sub("", path.stem)
            files, role = of_mask, MASK_FOLDER
        elif not in_masks and (not some or any(map(IMAGE_FOLDER.fullmatch, inside))):
            stem, files, role = IMAGE_ENDING.sub("", path.stem), of_image, IMAGE_FOLDER
        else:
            continue
        folders = [part for part in inside if not role.fullmatch(part)]
        if pattern is not None:  # folders may have any names
            folders = [split_of(_apart(path)) or ""]
        key = "/".join([*folders, stem])
        if key in files:
            raise DatasetError(
                f"{root / files[key]} and {root / path} have one name: remove one, {WHICH}"
            )
        files[key] = path
    return of_mask, of_image


def _apart(path: PurePosixPath) -> PurePosixPath:
    """A path with train/masks/ for train_masks/."""
    return PurePosixPath(JOINED.sub(r"\1/\2", str(path.parent)), path.name)


def _lists(root: Path) -> dict[str, str]:
    """Splits of images by name, with or without suffix, from train.txt, val.txt and test.txt."""
    return {
        name: split
        for split in ("train", "val", "test")
        if (root / f"{split}.txt").is_file()
        for line in (root / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        for path in (line.strip(), *line.split()[:1])  # or two: the image and its mask
        for name in (PurePosixPath(path).name, PurePosixPath(path).stem)
    }
