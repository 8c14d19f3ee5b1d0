"""Images and one mask each: PNGs of class ids, in gray or a palette, or of colors with a table.

    images/<name>.jpg, masks/<name>.png               also below, or above, train/, val/, test/
    train/<name>.png, train_labels/<name>_L.png       and so on
    <split>/<name>.jpg, <split>/<name>_mask.png       Roboflow, with _classes.csv

Folders and masks may have any of the usual names and endings; splits are folders, or lists of
names: train.txt, val.txt. Classes are named by a file (YAML, JSON, CSV, text), see `read_table`.
"""

import csv
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import colors_to_ids, open_image, read_label_ids
from panoptic_dl.datasets.formats.base import (
    IMAGES,
    JPEG,
    Export,
    Sample,
    Segments,
    by_split,
    list_files,
    split_of,
)

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


Table = dict[int, dict[str, Any]]
"""By the number that a class has in masks: its "name", and its "color" [R, G, B] or None."""

NAMES = re.compile(
    r"_?(classes|class_dict|class_names|labels|names|labelmap|label_map|id2label|dataset)"
    r"\.(yaml|yml|json|csv|txt)"
)
BINARY = {0: "background", 255: "foreground"}
BORDER = 224 | 224 << 8 | 192 << 16  # the color of VOC's border; its number is 255
PEEK = 40  # masks that are looked at to find out what their numbers mean
KEYS = {  # of rows, and of columns of CSV, by what they may be called
    "id": ("id", "pixel value", "value", "index", "label_id", "png_index"),
    "name": ("name", "class", "class_name", "label"),
    **{"r": ("r", "red"), "g": ("g", "green"), "b": ("b", "blue"), "color": ("color",)},
}


def classes_of_masks(
    root: Path, masks: list[Path], names: str | None, ignored: int | None
) -> tuple[Table, list[str]]:
    """The classes of a table in `root`, or those that the masks hold; and notes on them.

    Args:
        masks: files.
        names: of the table; None: one with a usual name.
        ignored: number, in masks, that is no class.

    Raises:
        DatasetError: there are colors or a number 255 that no table explains.
    """
    table = find_table(root, names)
    has_colors = any(row["color"] for row in table.values())
    numbers, palette = set[int](), None
    for mask in masks[:: max(1, len(masks) // PEEK)] if table else masks:
        opened = open_image(mask)
        if opened.mode in ("RGB", "RGBA") and has_colors:
            return table, []
        palette = opened.getpalette("RGB") if opened.mode == "P" else palette
        numbers.update(np.unique(read_label_ids(mask)).tolist())
    if numbers == {0, 255} and 255 not in table:
        if table:
            raise DatasetError(
                f"masks in {root} hold 0 and 255, and 255 is none of the classes: write its number "
                "into the file of names"
            )
        notes = ["masks hold 0 and 255, which become the classes background and foreground"]
        return {n: {"name": name, "color": None} for n, name in BINARY.items()}, notes
    if table:
        return table, []
    for n in sorted(numbers - {ignored}):
        color = palette[3 * n : 3 * n + 3] if palette else None
        table[n] = {"name": f"class {n}", "color": color or None}
    return table, [f"classes have no names: write lines `number: name` into {root}/classes.yaml"]


def find_table(root: Path, name: str | None = None) -> Table:
    """The classes in a file of `root`, the one called so or one with a usual name; {} without any.

    Raises:
        DatasetError: that file, or classes.*, names none.
    """
    files = [root / name] if name else sorted(f for f in root.iterdir() if NAMES.fullmatch(f.name))
    if name is None:
        files += sorted(root.glob("*/_classes.csv"))
    table = next(filter(None, map(read_table, files)), {})
    if meant := [f for f in files if not table and (name or "class" in f.name)]:
        raise DatasetError(f"{meant[0]} names no classes: write lines `number: name`")
    return table


def read_table(file: Path) -> Table:
    """Read a list of names, ids with names, or rows of "id", "name" and colors.

    Text has a name a line, or name:r,g,b:: as CVAT writes it.

    Returns:
        {} for a file of something else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".txt":
            lines = [line.split(":") for line in text.splitlines() if line.strip(" #")]
            rows = [_row(name, *rest[:1]) for name, *rest in lines if not name.startswith("#")]
            return _table(rows)
        if file.suffix == ".csv":
            return _table(list(csv.DictReader(text.splitlines(), skipinitialspace=True)))
        content = yaml.safe_load(text) if file.suffix in (".yaml", ".yml", ".json") else None
        if isinstance(content, dict):
            content = next((content[k] for k in ("names", "categories") if k in content), content)
        if isinstance(content, dict):
            content = [{"id": number, "name": name} for number, name in content.items()]
        return _table([row if isinstance(row, dict) else _row(row) for row in content or ()])
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        return {}


def _row(name: Any, color: str = "") -> dict[str, Any]:
    return {"name": name} | dict(zip("rgb", color.split(","), strict=False))


def _table(rows: list[dict[str, Any]]) -> Table:
    """The table of rows, whose ids are their numbers where they have none."""
    table: Table = {}
    for index, row in enumerate(rows):
        row = {str(key).strip().lower(): value for key, value in row.items()}
        of = {k: next((row[n] for n in names if n in row), None) for k, names in KEYS.items()}
        color = of["color"] or [of[channel] for channel in "rgb"]
        if not isinstance(of["name"], str):
            return {}
        table[index if of["id"] is None else int(of["id"])] = {
            "name": of["name"].strip(),
            "color": None if None in color or "" in color else [int(value) for value in color],
        }
    return table


def read_mask(
    file: Path, table: Table, ignored: int | None
) -> tuple[NDArray[np.integer], Segments]:
    """The segments of a mask, one a class; the id of a segment is its category's + 1.

    A palette counts as colors where the table has all of them, else by the positions in it. The
    border of PASCAL VOC, and black where no class has it, are void.

    Raises:
        DatasetError: it cannot be read, or holds a number or color that is none of the classes'.
    """
    pixels: NDArray[np.integer]
    image, by_color = open_image(file), False
    rgb = [(n, row["color"]) for n, row in table.items() if row["color"]]
    if rgb and image.mode in ("P", "RGB", "RGBA"):
        known = {red + 256 * green + 65536 * blue: n + 1 for n, (red, green, blue) in rgb}
        known = {BORDER: 0, 0: 0} | known
        pixels = colors_to_ids(np.asarray(image.convert("RGB")))
        unknown = {*np.unique(pixels).tolist()} - {*known}
        if unknown and image.mode != "P":
            color = [min(unknown) >> shift & 255 for shift in (0, 8, 16)]
            raise DatasetError(f"{file} has the color {color}, which no class of the table has")
        by_color = not unknown
    if not by_color:
        numbers = {n: n + 1 for n in table}
        pixels, known = read_label_ids(file), numbers if ignored is None else {ignored: 0} | numbers
        if unknown := {*np.unique(pixels).tolist()} - {*known}:
            raise DatasetError(
                f"{file} holds {min(unknown)}, which is no class: list it in the file of names, or "
                f"say that it means none: dataset.mask_ignore_label={min(unknown)}"
            )
    values, inverse = np.unique(pixels, return_inverse=True)
    ids = np.array([known[value] for value in values.tolist()])[inverse].reshape(pixels.shape)
    return ids, {n + 1: (n, 0) for n in table}
