"""Classes from the "categories" of panoptic JSON files, whatever their ids are.

A model's classes, the contiguous ids 0..K-1, are the things and then the stuff, each by category
id: the order in a file makes no difference, and those of COCO are as in Detectron2. Classes without
a color get one that is far from all others.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.core.archives import file_state
from panoptic_dl.core.classes import Classes, Color
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import printable, read_json
from panoptic_dl.core.settings import has_type
from panoptic_dl.datasets.index import indexed

MAX_CLASSES = 255  # labels have 8 bits, and one value means "none"
GUIDE = "docs/how-to/formats.md has an example"


def class_metadata(classes: Classes, *, semantic: bool = False) -> dict[str, Any]:
    """Entries for Detectron2's catalog of classes that have category ids.

    Args:
        semantic: every class is one without instances, as the semantic task sees it.
    """
    found: dict[str, Any] = {}
    for kind in ("stuff",) if semantic else ("stuff", "thing"):
        found[f"{kind}_classes"] = list(classes.names)
        found[f"{kind}_colors"] = [list(color) for color in classes.colors]
        found[f"{kind}_dataset_id_to_contiguous_id"] = {
            category: index
            for index, category in enumerate(classes.category_ids)
            if semantic or (index in classes.thing_ids) == (kind == "thing")
        }
    return found


def read_categories(file: Path) -> Classes:
    """The classes of a panoptic JSON file, which is read again when it has changed.

    Annotations may be hundreds of megabytes, and many parts of a config ask for the classes.

    Raises:
        DatasetError: the file cannot be read, or its categories make no classes.
    """
    listed, _ = _read(*file_state(file))
    _require_lists({"categories": listed}, ("categories",), file)
    categories = check_categories(listed, file)
    categories.sort(key=lambda category: (not category["isthing"], category["id"]))
    without = [category for category in categories if category["color"] is None]
    given = [category["color"] for category in categories if category["color"] is not None]
    for category, color in zip(without, _distinct_colors(len(without), given), strict=True):
        category["color"] = color
    return Classes.of_categories(categories)


def read_annotations(
    file: Path, needed: Sequence[str] = ("images", "annotations", "categories")
) -> dict[str, Any]:
    """Parse a panoptic JSON file.

    Args:
        needed: its lists that may not be empty. One of images without ground truth has images.

    Raises:
        DatasetError: it is missing, torn, or no file of that format.
    """
    try:
        content = read_json(file)
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DatasetError(
            f"not a readable JSON file: {file} ({error}); write or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} is no panoptic JSON file: it holds no object; {GUIDE}")
    _require_lists(content, needed, file)
    return content


def _require_lists(content: Mapping[str, Any], keys: Sequence[str], file: Path) -> None:
    for key in keys:
        if not isinstance(content.get(key), list) or not content[key]:
            raise DatasetError(
                f'{file} is no panoptic JSON file: its "{key}" are missing or empty; {GUIDE}'
            )
        odd = next((entry for entry in content[key] if not isinstance(entry, dict)), None)
        if odd is not None:
            raise DatasetError(f'{file}: {str(odd)[:80]} in "{key}" is no object; {GUIDE}')


def has_truth(file: Path) -> bool:
    """Whether a JSON file has annotations; images that are predicted for a server have none.

    Raises:
        DatasetError: it is missing, torn, or lists no images.
    """
    return _read(*file_state(file))[1]


def repeated_stuff(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], things: Collection[int]
) -> str:
    """Say that images have several segments of one stuff class, as some tools write them.

    Args:
        records: of images; categories of their segments are contiguous.
        names: of classes.
        things: classes of which an image may have several segments.

    Returns:
        "" where that is not so.
    """
    examples = []
    for record in records:
        stuff = [
            s["category_id"] for s in record["segments_info"] if s["category_id"] not in things
        ]
        if len(set(stuff)) < len(stuff):
            most = max(stuff, key=stuff.count)
            file = record["pan_seg_file_name"]
            examples.append(f"{stuff.count(most)} of stuff {names[most]!r} in {file}")
    if not examples:
        return ""
    return (
        f"{len(examples):,} of {len(records):,} images have several segments of one stuff class, "
        f"such as {examples[0]}: a model predicts one, which matches none of them, and PQ suffers"
    )


@lru_cache(maxsize=16)
def _read(name: str, *state: int) -> tuple[Any, bool]:
    """The categories, not yet checked, and whether there are annotations."""

    def load() -> list[dict[str, Any]]:
        content = read_annotations(Path(name), ("images",))
        return [{"all": content.get("categories"), "truth": bool(content.get("annotations"))}]

    (entry,) = indexed(f"categories of {name}", [Path(name)], load, {})
    return entry["all"], entry["truth"]


def check_categories(categories: Sequence[Any], file: Path) -> list[dict[str, Any]]:
    """The categories of a file: "id", "name", "isthing" (bool) and "color" (RGB or None).

    Raises:
        DatasetError: they make no classes; names the file and the category.
    """
    checked: list[dict[str, Any]] = []
    for category in categories:
        number, name, thing, color = map(category.get, ("id", "name", "isthing", "color"))
        is_text = isinstance(name, str) and name.strip() and printable(name, len(name)) == name
        is_rgb = has_type(color, list[int]) and len(color) == 3 and {*color} <= {*range(256)}
        for key, fits, wanted in (
            ("id", type(number) is int and number >= 0, "a whole number from 0"),
            ("name", is_text, "a text without control characters and halves of emojis"),
            ("isthing", thing in (0, 1), "1 if objects are told apart (cars), 0 if not (the sky)"),
            ("color", color is None or is_rgb, "[red, green, blue] of 0..255, or left out"),
        ):
            if not fits:
                value = f'category {number!r} ({name!r}): "{key}" is {category.get(key)!r}'
                raise DatasetError(f"{file}: {value}; it must be {wanted}; {GUIDE}")
        rgb = color and tuple(color)
        checked.append({"id": number, "name": name, "isthing": bool(thing), "color": rgb})
    for key, remedy in (("id", "give each its own"), ("name", "rename one, or make them one")):
        values = [category[key] for category in checked]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise DatasetError(f'{file}: two categories have the "{key}" {twice!r}; {remedy}')
    if len(checked) > MAX_CLASSES:
        raise DatasetError(
            f"{file} has {len(checked)} categories; labels have 8 bits, so at most "
            f"{MAX_CLASSES} can be told apart: merge some"
        )
    return checked


STEPS = np.arange(40, 241, 25)  # of each channel; strong colors hide the picture below
LIGHTNESS = (90, 210)  # mean of channels: neither like void, which is darkened, nor like outlines


def _distinct_colors(number: int, taken: Sequence[Color] = ()) -> list[Color]:
    """At most 300 RGB colors, each the farthest from all before it, and those in use."""
    candidates = np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), -1).reshape(-1, 3)
    means = candidates.mean(1)
    candidates = candidates[(means > LIGHTNESS[0]) & (means < LIGHTNESS[1])]
    distance = np.full(len(candidates), np.inf)
    colors: list[Color] = [(128, 128, 128), *taken]  # no class is gray
    for place, color in enumerate(colors):  # which grows meanwhile
        distance = np.minimum(distance, ((candidates - color) ** 2).sum(1))
        if len(taken) <= place < len(taken) + number:
            red, green, blue = candidates[distance.argmax()].tolist()
            colors.append((red, green, blue))
    return colors[len(taken) + 1 :]
