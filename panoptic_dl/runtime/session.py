"""`Session`: an exported model as a function of images, run by onnxruntime.

What the file says of itself, classes, sizes and provenance, lies in a property of it. H W pixels of
an image, h w of the network's input.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from os import PathLike
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.classes import Classes, parse_classes
from panoptic_dl.core.errors import DemoError, WeightsError
from panoptic_dl.core.files import local_path, near_names, parse_json, printable
from panoptic_dl.core.settings import describe_type, has_type
from panoptic_dl.runtime.prediction import BasePredictor, NetworkOutput, PreparedImage

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # the first ones that are there
INPUTS = ("images", "image_size", "output_size")
OUTPUTS = ("semantic", "panoptic", "thing_ids", "scores")  # the first alone of task=semantic
ERRORS_ONLY = 3  # severity of what onnxruntime writes to stderr


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


class Session(BasePredictor):
    """A model that mode=export wrote: images of any size and mode in, `PanopticResult`s out.

    `session(image)` is what `Predictor(...)(image)` is for the same model, without PyTorch and
    Detectron2. Any number of threads may call one session. It can be pickled, by the path of its
    file, and so be sent to other processes.

    Attributes:
        path: of the file.
        metadata: what the file says of itself.
        providers: of onnxruntime that run it, the preferred first.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        maps: str = "image",
    ) -> None:
        """
        Args:
            path: of the ONNX file.
            providers: of onnxruntime, such as ["CPUExecutionProvider"]; None: CUDA where it is
                there, else the CPU.
            threads: of an operator on the CPU; None: one per core.
            maps: "image" or "network", see `Predictor`.

        Raises:
            WeightsError: (a ValueError) there is no such file, it is none of mode=export or has no
                post-processing inside, or onnxruntime is not installed.
            DemoError: (a ValueError) a provider is not there, or `threads` is no such number.
        """
        self.path = local_path(path).absolute()
        self._options: dict[str, Any] = {"providers": providers, "threads": threads, "maps": maps}
        self._session = _open(self.path, providers, threads)
        text = self._session.get_modelmeta().custom_metadata_map.get(PROPERTY)
        self.metadata = found = ExportMetadata.from_json(text, self.path)
        if not found.postprocess:
            raise WeightsError(
                f"{self.path} has no post-processing inside, and is for programs that bring their "
                "own: export the model with export.postprocess=true"
            )
        super().__init__(found.classes, found.label_divisor, found.task == "panoptic", maps)
        self.providers: list[str] = self._session.get_providers()
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]
        outputs = OUTPUTS if self.is_panoptic else OUTPUTS[:1]
        if not {*self._inputs} <= {*INPUTS} or not {*outputs} <= {*self._outputs}:
            raise WeightsError(
                f"{self.path} is another graph than its panoptic_dl metadata say: it takes "
                f"{printable(', '.join(self._inputs), 100)} and gives "
                f"{printable(', '.join(self._outputs), 100)}: export the model again with "
                "mode=export"
            )

    def __repr__(self) -> str:
        facts = self.path.name, f"{len(self.classes)} classes", self.providers[0]
        return f"Session({', '.join(facts)})"

    def __reduce__(self) -> tuple[Callable[..., "Session"], tuple[Any, ...]]:
        return partial(type(self), **self._options), (self.path,)

    def _resize(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        facts, notes = self.metadata, tuple[str, ...]()
        size = height, width = pixels.shape[:2]
        if facts.resize is not None:
            size = resized_size(height, width, facts.resize["short"], facts.resize["longest"])
        most = facts.height or size[0], facts.width or size[1]
        if size[0] > most[0] or size[1] > most[1]:
            scale = min(most[0] / size[0], most[1] / size[1])
            notes = (
                f"shown to the network at {100 * scale:.3g} % of the test size: {self.path.name} "
                f"takes at most {most[0]} x {most[1]} pixels",
            )
            size = _rounded(scale * size[0], scale * size[1])
        if size != (height, width):
            image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
        return pixels, notes

    def _run(self, batch: Sequence[PreparedImage]) -> list[NetworkOutput]:
        outputs, number = list[NetworkOutput](), self.metadata.batch or len(batch)
        for start in range(0, len(batch), number):
            images = np.stack([image.resized for image in batch[start : start + number]])
            feeds = graph_inputs(self.metadata, images, batch[0].map_size)
            arrays = self._session.run(None, {name: feeds[name] for name in self._inputs})
            found = dict(zip(self._outputs, arrays, strict=True))
            semantic = found["semantic"]
            if semantic.dtype != np.uint8:
                semantic = semantic.astype(np.uint16)
            for row in range(len(images)):
                outputs.append(NetworkOutput(semantic[row]))
                if self.is_panoptic:
                    scores = found["scores"][row][found["thing_ids"][row] >= 0]
                    outputs[-1] = NetworkOutput(semantic[row], found["panoptic"][row], scores)
        return outputs


def graph_inputs(
    facts: ExportMetadata, images: NDArray[np.uint8], output_size: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """What a graph takes of (N, 3, h, w) RGB images: padded, and a batch of fixed size filled.

    ValueError: they are larger than the file takes, or more.
    """
    number, _, height, width = images.shape
    high = facts.height or -(-height // facts.stride) * facts.stride
    wide = facts.width or -(-width // facts.stride) * facts.stride
    most = facts.batch or number
    if number > most or height > high or width > wide:
        raise ValueError(
            f"{number} images of {height} x {width} pixels: the file takes "
            f"{facts.batch or 'any number'} of at most {high} x {wide}; one that takes any is "
            "exported without export.batch=, export.height= and export.width="
        )
    padded = np.zeros((most, 3, high, wide), np.uint8)
    padded[:number, :, :height, :width] = images
    padded[number:] = padded[:1]
    inputs = {"images": padded, "image_size": np.array([height, width], np.int64)}
    return inputs | ({"output_size": np.array(output_size)} if facts.postprocess else {})


def resized_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(h, w) of an image after Detectron2's `ResizeShortestEdge`, in its order of roundings."""
    if height < width:
        h, w = short * 1.0, short * 1.0 / height * width
    else:
        h, w = short * 1.0 / width * height, short * 1.0
    if max(h, w) > longest:
        scale = longest * 1.0 / max(h, w)
        h, w = h * scale, w * scale
    return _rounded(h, w)


def _rounded(height: float, width: float) -> tuple[int, int]:
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def _open(file: Any, providers: Sequence[str] | None, threads: int | None) -> Any:
    """An `onnxruntime.InferenceSession` of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(
            f"{file} needs onnxruntime ({error}): pip install 'panoptic-dl[runtime]'"
        ) from error
    if not file.is_file():
        near = near_names(file.parent, file.name)
        raise WeightsError(f"{file}: there is no such file{near}")
    there = onnxruntime.get_available_providers()
    wanted = [name for name in PROVIDERS if name in there] if providers is None else providers
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise DemoError(
            f"providers: this onnxruntime has no {missing[0] if missing else 'empty list'}, but "
            f"{', '.join(there)}"
        )
    if threads is not None and (type(threads) is not int or threads < 1):
        raise DemoError(f"threads={threads}: give a whole number from 1, or None for one per core")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(file), options, list(wanted))
    except Exception as error:  # onnxruntime has a dozen kinds without a common base
        raise WeightsError(
            f"{file} is no ONNX file that onnxruntime {onnxruntime.__version__} can run "
            f"({printable(str(error), 300)}): export the model again with mode=export"
        ) from error
