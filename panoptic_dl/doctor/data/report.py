"""What was found in the files of one image."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

# By the row of the table that a problem stands in.
Kind = Literal[
    "images",
    "image modes",
    "orientation",
    "sizes",
    "labels",
    "label ids",
    "areas",
    "boxes",
    "semantic labels",
    "agreement",
]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, in words that name it.

    `serious` problems make a row red, others yellow.
    """

    kind: Kind
    text: str
    serious: bool = True


@dataclass
class ImageReport:
    """Of one image and its labels.

    Attributes:
        file_name: of the image.
        problems: all that is wrong.
        digest: of the file's bytes; two images with one digest are the same.
        mode: Pillow's name for the kind of its pixels.
        classes: pixels of each class in its semantic label, if that is a file.
    """

    file_name: str
    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None
    mode: str = ""
    classes: Counter[int] = field(default_factory=Counter)

    def add(self, kind: Kind, text: str, *, serious: bool = True) -> None:
        self.problems.append(Problem(kind, text, serious))

    def has(self, *kinds: Kind) -> bool:
        """Whether there is a serious problem of one of these kinds."""
        return any(problem.serious and problem.kind in kinds for problem in self.problems)
