"""What a weights file says of itself: where it comes from, and which images it expects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import WeightsError
from .printable import printable

LONGEST_TEXT = 500
LONGEST_METRICS = 4000  # cut text is no JSON: the writer keeps to it


@dataclass(frozen=True)
class Provenance:
    """Kept in the header of `.safetensors`, and beside the tensors of `.pth` and `.pkl`."""

    source_file: str  # name of the file that was read, without its folder
    source_sha256: str
    source_size: int  # bytes
    date: str  # of the conversion, or of the checkpoint that was exported; ISO 8601, UTC
    licence: str  # as the person who converted or exported stated it
    converter: str  # what wrote the file, with its version
    origin: str  # the row of the table of origins
    architecture: str  # a backbone's option or a row, such as hrnet48
    pixel_mean: tuple[float, ...]  # of the images that the weights expect, in their units
    pixel_std: tuple[float, ...]
    image_format: str  # channel order, RGB or BGR
    percent: float  # share of the architecture's values that the file has
    row: str = ""  # of an exported model: dataset_task_backbone_head, and whether it is an average
    iteration: int = -1  # of an exported model: finished iterations; -1: not known
    revision: str = ""  # of an exported model: git revision of the code that trained it
    metrics: str = ""  # of an exported model: JSON of its headline figures, in percent

    def plain(self) -> dict[str, Any]:
        """Values that every container can hold."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            for value in [getattr(self, field.name)]
        }

    def header(self) -> dict[str, str]:
        """Texts for a header that holds nothing else; numbers as JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.plain().items()
        }

    def lines(self) -> list[str]:
        """For a log, a few facts a line."""
        lines = [
            f"made of {self.source_file} ({megabytes(self.source_size)}, SHA-256 "
            f"{self.source_sha256}), {self.date}, by {self.converter}",
            f"origin: {self.origin}; licence: {self.licence}",
            f"expects {self.image_format} images, pixel mean {_numbers(self.pixel_mean)}, std "
            f"{_numbers(self.pixel_std)}; covers {self.percent:.2f} % of {self.architecture}",
        ]
        if self.row:
            lines.append(
                f"trained as {self.row}, {self.iteration} iterations, revision "
                f"{self.revision or 'unknown'}, figures {self.metrics or 'none'}"
            )
        return lines


def read_provenance(stored: Mapping[str, Any] | None) -> Provenance | None:
    """Read what `plain` or `header` stored; None where a file holds no provenance of ours.

    The content is that of a file, and not to be trusted: texts lose control characters and length.

    Raises:
        WeightsError: there is provenance, and it is damaged.
    """
    if not stored or "converter" not in stored or "source_sha256" not in stored:
        return None
    values: dict[str, Any] = {}
    for field in fields(Provenance):
        if field.name not in stored:
            continue
        try:
            longest = LONGEST_METRICS if field.name == "metrics" else LONGEST_TEXT
            values[field.name] = _read(stored[field.name], field.type, longest)
        # "1e999" as a whole number, a list in a thousand lists
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise WeightsError(
                f"the provenance in the file is damaged: {field.name} is "
                f"'{printable(stored[field.name], 80)}'"
            ) from error
    try:
        return Provenance(**values)
    except TypeError as error:
        raise WeightsError(f"the provenance in the file is damaged: {error}") from error


def megabytes(size: int) -> str:
    """A file's size for people."""
    return f"{size / 1e6:.1f} MB"


def _read(value: Any, kind: Any, longest: int) -> Any:
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return "".join(c if c.isprintable() else "?" for c in value[:longest])
    value = json.loads(value) if isinstance(value, str) else value
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        return kind(value)
    if not isinstance(value, list) or not all(isinstance(v, (int, float)) for v in value[:16]):
        raise TypeError
    return tuple(float(v) for v in value[:16])


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
