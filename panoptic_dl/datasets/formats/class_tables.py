"""Classes of masks: files that name them (YAML, JSON, CSV, text), and masks read by that table."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import colors_to_ids, open_image, read_label_ids
from panoptic_dl.datasets.formats.base import Segments

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
