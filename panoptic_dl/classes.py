"""The classes of a dataset: what there is to predict, and how it is named and coloured."""

from collections.abc import Sequence
from dataclasses import dataclass

Color = tuple[int, int, int]  # RGB, 0..255


@dataclass(frozen=True)
class Classes:
    """Names and colours by contiguous id, 0..K-1.

    Attributes:
        names: of the K classes.
        colors: K of them.
        thing_ids: the contiguous ids of the classes that have instances.

    Raises:
        ValueError: the numbers of names and colours differ, or a thing is none of the classes.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    thing_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} names of classes, but {len(self.colors)} colours")
        strangers = [i for i in self.thing_ids if not 0 <= i < len(self.names)]
        if strangers:
            raise ValueError(f"thing {strangers[0]} is none of the classes 0..{len(self) - 1}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of_categories(cls, categories: Sequence[dict]) -> "Classes":
        """From categories in the order of their contiguous ids: "name", "color", "isthing"."""
        return cls(
            names=tuple(str(category["name"]) for category in categories),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in (c["color"] for c in categories)),
            thing_ids=tuple(i for i, category in enumerate(categories) if category["isthing"]),
        )
