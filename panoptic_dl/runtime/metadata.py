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
CHOICES = {"task": ("panoptic", "semantic"), "precision": ("fp32", "fp16")}
RESIZE = ("short", "longest")


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

    Raises:
        ValueError: an attribute is not what it is said to be here.
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

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not has_type(value, hint) or value not in CHOICES.get(name, (value,)):
                wanted = " or ".join(CHOICES[name]) if name in CHOICES else describe_type(hint)
                raise ValueError(f"{name} is {printable(value)}, not {wanted}")
        sides = [side for side in (self.height, self.width) if side is not None]
        resize = () if self.resize is None else map(self.resize.__getitem__, RESIZE)
        for number in (self.label_divisor, self.stride, self.batch or 1, *sides, *resize):
            if (
                not has_type(number, int)
                or number < 1
                or (number in sides and number % self.stride)
            ):
                raise ValueError(f"a size is {printable(number)}, with a stride of {self.stride}")

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
            version = record["format"]
            if version == FORMAT:
                facts = {each.name: record[each.name] for each in fields(cls)}
                return cls(**facts | {"classes": parse_classes(facts["classes"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise WeightsError(
                f"{file} has damaged panoptic_dl metadata ({printable(what, 200)}): export the "
                "model again with mode=export"
            ) from error
        raise WeightsError(
            f"{file} is of version {printable(version)} of the format of exported files, and this "
            f"panoptic-dl reads version {FORMAT}: export the model again with mode=export, or take "
            "the version of panoptic-dl that wrote the file"
        )
