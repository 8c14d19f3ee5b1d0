"""The classes of a dataset, and `classes.json`, which keeps them with a run for use elsewhere."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import local_path, read_json, write_text
from panoptic_dl.core.settings import has_type

CLASSES = "classes.json"  # of a run: those that its model predicts

Color = tuple[int, int, int]  # RGB, 0..255


@dataclass(frozen=True)
class Classes:
    """Names and colors by contiguous id, 0..K-1.

    Attributes:
        names: of the K classes.
        colors: K of them.
        thing_ids: the contiguous ids of the classes that have instances.
        category_ids: the dataset's own ids, in the files of annotations and predictions; empty
            where they are not known: `classes.json` of earlier versions has none.

    Raises:
        ValueError: the numbers of names, colors and category ids differ, or a thing is none of the
            classes.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    thing_ids: tuple[int, ...]
    category_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} names of classes, but {len(self.colors)} colors")
        if self.category_ids and len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} classes, but {len(self.category_ids)} ids of them")
        unknown = [i for i in self.thing_ids if not 0 <= i < len(self.names)]
        if unknown:
            raise ValueError(f"thing {unknown[0]} is none of the classes 0..{len(self) - 1}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of_categories(cls, categories: Sequence[dict]) -> "Classes":
        """From categories in the order of contiguous ids: "id", "name", "color", "isthing"."""
        return cls(
            names=tuple(str(category["name"]) for category in categories),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in (c["color"] for c in categories)),
            thing_ids=tuple(i for i, category in enumerate(categories) if category["isthing"]),
            category_ids=tuple(int(category["id"]) for category in categories),
        )

    def categories(self) -> list[dict[str, Any]]:
        """As `of_categories` takes them, and COCO's panoptic format has them.

        Ids that are not known are the contiguous ones.
        """
        ids = self.category_ids or range(len(self))
        rows = zip(ids, self.names, self.colors, strict=True)
        return [
            {"id": i, "name": name, "color": list(color), "isthing": int(index in self.thing_ids)}
            for index, (i, name, color) in enumerate(rows)
        ]

    def to_json(self) -> str:
        """As `load_classes` reads them: an object of the attributes, plain ASCII."""
        return json.dumps(asdict(self)) + "\n"

    def difference(self, other: "Classes") -> str | None:
        """Describe the first difference to `other` in names and things; None if there is none."""
        if len(self) != len(other):
            return f"{len(self)} classes, not {len(other)}"
        for index, (mine, theirs) in enumerate(zip(self.names, other.names, strict=True)):
            if mine != theirs:
                return f"class {index} is {mine!r}, not {theirs!r}"
        for index in sorted(set(self.thing_ids) ^ set(other.thing_ids)):
            kinds = ("a thing", "stuff") if index in self.thing_ids else ("stuff", "a thing")
            return f"class {index} ({self.names[index]!r}) is {kinds[0]}, not {kinds[1]}"
        return None


def load_classes(file: Path) -> Classes:
    """Read what `Classes.to_json` made; ValueError names a file that is missing or damaged."""
    try:
        return parse_classes(read_json(file))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} does not describe classes ({error}): name the classes.json of a run"
        ) from error


def parse_classes(content: Any) -> Classes:
    """The classes of an object as `Classes.to_json` has it.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    names, colors, things = (content[key] for key in ("names", "colors", "thing_ids"))
    ids = content.get("category_ids", [])
    if not (names and has_type(names, list[str]) and has_type([*things, *ids], list[int])):
        raise ValueError("there are no names, one is no text, or an id no number")
    if not all(has_type(c, list[int]) and 0 <= min(c) <= max(c) < 256 for c in colors):
        raise ValueError("a color is not [red, green, blue] of 0..255")
    rgb = tuple((r, g, b) for r, g, b in colors)
    return Classes(tuple(names), rgb, tuple(things), tuple(ids))


def count_classes(classes: Classes) -> int:
    """Their number, K: for configs."""
    return len(classes)


def thing_ids(classes: Classes) -> list[int]:
    """Contiguous ids of those that have instances: for configs."""
    return list(classes.thing_ids)


def record_classes(classes: Classes, run_dir: Path) -> None:
    """Write `classes.json` of a run; ValueError if that run was started with other classes."""
    file = run_dir / CLASSES
    if file.is_file():
        differs = classes.difference(load_classes(file))
        if differs:
            raise ValueError(
                f"the dataset has other classes than this run was started with ({file}): {differs}"
                ". Resume with the categories as they were, or start anew in another run_dir"
            )
        return
    write_text(file, classes.to_json())


def require_classes(classes: Classes, weights: str) -> None:
    """Require that weights, a file or run folder, predict the classes of the evaluated dataset.

    Without the run's `classes.json` nothing is checked. ValueError: class ids mean others.
    """
    theirs = classes_of_weights(weights)
    differs = theirs and classes.difference(theirs)
    if differs:
        raise ValueError(
            f"the dataset has other classes than the model of weights={weights}: {differs}. Its "
            f"{CLASSES} lists the model's; evaluate it on data with the same categories, ids in "
            "the same order"
        )


def classes_of_weights(weights: str | Path) -> Classes | None:
    """The classes of a run's weights, a file or folder; None without, ValueError if damaged."""
    place = local_path(weights, "weights")
    file = (place if place.is_dir() else place.parent) / CLASSES
    return load_classes(file) if file.is_file() else None


def require_no_class(ignore_label: int, num_classes: int) -> None:
    """Raise `DatasetError` unless `ignore_label` is a number of 8 bits behind the classes."""
    if not num_classes <= ignore_label <= 255:
        raise DatasetError(
            f"dataset.ignore_label={ignore_label} must be a number that no class has: "
            f"{num_classes}..255 for the classes 0..{num_classes - 1}"
        )
