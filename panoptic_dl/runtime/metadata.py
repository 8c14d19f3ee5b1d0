"""What an exported file says of itself: classes, sizes, provenance, in a property of the file."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from panoptic_dl.core.classes import Classes, parse_classes
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import parse_json, printable
from panoptic_dl.core.settings import describe_type, has_type

PROPERTY = "panoptic_dl"  # of the ONNX file's metadata
FORMAT = 1
TASKS, PRECISIONS = ("panoptic", "semantic"), ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What mode=export writes into the file, and a `Session` reads there.

    Attributes:
        task: "panoptic" or "semantic".
        postprocess: whether the graph ends in maps of the image's size, or in the heads' maps.
        classes: names and colors.
        label_divisor: panoptic ids are category * label_divisor + instance, -1 where void.
        stride: of which heights and widths of the input are multiples.
        batch, height, width: of the input; None: any.
        resize: the test resize, Detectron2's `ResizeShortestEdge`: its sides "short" and "longest"
            in pixels; None: images are taken as they are.
        precision: of the network, "fp32" or "fp16"; inputs and outputs are the same of both.
        pixel_mean, pixel_std: of RGB, 0..255, by which the graph normalizes; for information.
        parameters: of the post-processing; for information.
        provenance: of what run, weights and versions, on what date; for information.
        opset: of ONNX.
        format: version of these facts, and of the names of inputs and outputs.
    """

    task: str
    postprocess: bool
    classes: Classes
    label_divisor: int
    stride: int
    batch: int | None
    height: int | None
    width: int | None
    resize: dict[str, int] | None
    precision: str
    pixel_mean: list[float]
    pixel_std: list[float]
    parameters: dict[str, Any]
    provenance: dict[str, Any]
    opset: int
    format: int = FORMAT

    def to_json(self) -> str:
        """As `from_json` reads it: an object of the attributes, plain ASCII."""
        return json.dumps({**asdict(self), "classes": json.loads(self.classes.to_json())})

    @classmethod
    def from_json(cls, text: str | None, file: object) -> "ExportMetadata":
        """Read what `to_json` made; None: the file has no such property.

        Raises:
            WeightsError: the file, named by `file`, is none of mode=export, of another version of
                the format, or the text is damaged.
        """
        if text is None:
            raise WeightsError(f"{file} has no panoptic_dl metadata: export it with mode=export")
        try:
            record = parse_json(text, "the JSON")
            if not isinstance(record, dict):
                raise ValueError("it is no object")
            if record.get("format") != FORMAT:
                found = printable(record.get("format"))
                raise WeightsError(
                    f"{file} is of version {found} of the format of exported files, and this "
                    f"panoptic-dl reads version {FORMAT}: export the model again with mode=export, "
                    "or take the version of panoptic-dl that wrote the file"
                )
            facts = {each.name: record[each.name] for each in fields(cls)}
            facts["classes"] = parse_classes(facts["classes"])
            _check(facts, get_type_hints(cls))
        except WeightsError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else printable(str(error))
            raise WeightsError(
                f"{file} has damaged panoptic_dl metadata ({what}): export the model again with "
                "mode=export"
            ) from error
        return cls(**facts)


def _check(facts: dict[str, Any], hints: dict[str, Any]) -> None:
    """Raise ValueError unless each fact is what its attribute is said to be."""
    for name, value in facts.items():
        if name != "classes" and not has_type(value, hints[name]):
            raise ValueError(f"{name} is {printable(value)}, not {describe_type(hints[name])}")
    for name, allowed in (("task", TASKS), ("precision", PRECISIONS)):
        if facts[name] not in allowed:
            raise ValueError(f"{name} is {printable(facts[name])}, not {' or '.join(allowed)}")
    sizes = {name: facts[name] for name in ("label_divisor", "stride", "batch", "height", "width")}
    if facts["resize"] is not None:
        sizes |= {f"resize.{name}": facts["resize"][name] for name in ("short", "longest")}
    for name, value in sizes.items():
        if value is not None and not (has_type(value, int) and value > 0):
            raise ValueError(f"{name} is {printable(value)}, not a number of at least 1")
    for name in ("height", "width"):
        if (facts[name] or 0) % facts["stride"]:
            raise ValueError(f"{name} is {facts[name]}, no multiple of {facts['stride']}")
