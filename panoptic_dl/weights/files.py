"""Read and write files of safetensors, PyTorch and pickle: tensors with their provenance.

Nothing in a file is ever executed: safetensors hold nothing executable, PyTorch's files are opened
with its `weights_only`, and all others by the restricted unpickler of `safe_pickle`. Which kind a
file is stands in its first bytes: `.pth.tar`, `.ckpt`, `.bin` and others are names for the same.
"""

import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from panoptic_dl.core.errors import WeightsError, disk_error
from panoptic_dl.core.files import (
    atomic_write,
    flush,
    local_path,
    near_names,
    printable,
    require_file,
    sha256_of,
)
from panoptic_dl.core.parallel import size_text
from panoptic_dl.core.run_folder import is_exported
from panoptic_dl.core.settings import has_type
from panoptic_dl.weights.names import KNOWN_DTYPES
from panoptic_dl.weights.safe_pickle import read_pickle

logger = logging.getLogger(__name__)

# What files of PyTorch begin with: a zip archive, and before those a number that is pickled.
TORCH = (b"PK\x03\x04", MAGIC_NUMBER.to_bytes(10, "little"))
SHARD = re.compile(r"-\d+-of-\d+\.|\.index\.json$|\.distcp$|mp_rank_\d+")
# Data that many files of PyTorch hold beside the weights: options, paths, numpy's numbers. A list
# of what is allowed: `_Ignored` stands for each, and no function of these names is called.
IGNORED = """
    argparse.Namespace numpy.dtype numpy.ndarray numpy.core.multiarray.scalar
    numpy._core.multiarray.scalar numpy.core.multiarray._reconstruct
    numpy._core.multiarray._reconstruct pathlib.PosixPath pathlib._local.PosixPath
    pathlib.PurePath pathlib._local.PurePath
""".split()  # noqa: SIM905
WRAPPERS = ("model", "state_dict")  # keys that the parameters may lie in, before all others
MAX_WRAPPERS = 8  # one in the other: a file may hold itself
MAX_TEXT = 4000  # characters of a text of the provenance, such as the JSON of metrics
MAX_VALUES = 16  # of a list of it


@dataclass(frozen=True)
class Provenance:
    """Where weights come from, and which images they expect.

    Kept in the header of `.safetensors`, and next to the tensors in `.pth` and `.pkl`.
    """

    source_file: str  # name of the file that was read, without its folder
    source_sha256: str
    source_size: int  # bytes
    date: str  # of the conversion, or of the checkpoint that was exported; ISO 8601, UTC
    licence: str  # as the person who converted or exported stated it
    converter: str  # what wrote the file, with its version
    origin: str  # name of an `Origin`
    architecture: str  # a backbone's option such as hrnet48, or the experiment's name
    pixel_mean: tuple[float, ...]  # of the images that the weights expect, in their units
    pixel_std: tuple[float, ...]
    image_format: str  # channel order, RGB or BGR
    percent: float  # share of the architecture's values that the file has
    # Of an exported model:
    row: str = ""  # dataset_task_backbone_head, and whether it is an average
    iteration: int = -1  # finished iterations; -1: not known
    revision: str = ""  # git revision of the code that trained it
    metrics: str = ""  # JSON of its headline metrics, in percent

    def plain(self) -> dict[str, Any]:
        """Values that every container can hold."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in vars(self).items()}

    def header(self) -> dict[str, str]:
        """Texts for a header that holds nothing else; numbers as JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.plain().items()
        }

    def lines(self) -> list[str]:
        """For a log, a few facts a line."""
        mean, std = (
            "(" + ", ".join(f"{value:g}" for value in values) + ")"
            for values in (self.pixel_mean, self.pixel_std)
        )
        lines = [
            f"made of {self.source_file} ({size_text(self.source_size)}, SHA-256 "
            f"{self.source_sha256}), {self.date}, by {self.converter}",
            f"origin: {self.origin}; licence: {self.licence}",
            f"expects {self.image_format} images, pixel mean {mean}, std {std}; covers "
            f"{self.percent:.2f} % of {self.architecture}",
        ]
        if self.row:
            lines.append(
                f"trained as {self.row}, {self.iteration} iterations, revision "
                f"{self.revision or 'unknown'}, metrics {self.metrics or 'none'}"
            )
        return lines


def _read_provenance(stored: Mapping[str, Any]) -> Provenance | None:
    """What `plain` or `header` stored, if it is ours; foreign text becomes printable and short."""
    if "converter" not in stored or "source_sha256" not in stored:
        return None
    values: dict[str, Any] = {}
    for name, kind in get_type_hints(Provenance).items():
        try:
            if name in stored:
                values[name] = _parse(stored[name], kind)
        # "1e999" as a whole number, a list in a thousand lists
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise WeightsError(
                f"the provenance in the file is damaged: {name} is '{printable(stored[name], 80)}'"
            ) from error
    try:
        return Provenance(**values)
    except TypeError as error:
        raise WeightsError(f"the provenance in the file is damaged: {error}") from error


def _parse(value: Any, kind: Any) -> Any:
    if kind is not str and isinstance(value, str):
        value = json.loads(value)
    if not has_type(value, kind if kind in (str, int, float) else list[float]):
        raise TypeError
    if isinstance(value, list):
        return tuple(map(float, value[:MAX_VALUES]))
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value[:MAX_TEXT])
    return kind(value)


@dataclass(frozen=True)
class WeightsFile:
    """The contents of a weights file."""

    path: Path
    sha256: str
    size: int  # bytes
    tensors: dict[str, Tensor]  # by the names in the file, on the CPU
    other: dict[str, Any]  # what else the file holds, such as `iteration` and `ema`
    provenance: Provenance | None

    def lines(self) -> list[str]:
        """For a log: what file this is and where it comes from."""
        return [
            f"{printable(str(self.path), 4096)} ({size_text(self.size)}, SHA-256 {self.sha256})",
            *(self.provenance.lines() if self.provenance else ["carries no provenance"]),
        ]


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file of any kind, whatever wraps its parameters.

    Parameters may lie in `model` or `state_dict`, also one in the other, next to an optimizer's
    state and the like; otherwise in dicts of any names, which become the beginning of theirs.
    WeightsError: the file is missing, damaged, without parameters, or asks for code.
    """
    path = local_path(path, "weights")
    if not path.is_file():
        near = near_names(path.parent, path.name)
        raise WeightsError(f"weights={path}: there is no such file{near}")
    if is_exported(path) or path.suffix.lower() == ".pt2":
        raise WeightsError(
            f"weights={path} is an exported file: mode=demo, mode=eval and mode=benchmark run "
            ".onnx, as panoptic_dl.runtime.Session does; torch.export.load and torch._inductor."
            "aoti_load_package read .pt2. Here take the run or file it was exported from"
        )
    if SHARD.search(path.name):
        raise WeightsError(
            f"weights={path} is a part of a checkpoint in several files: put the weights into one "
            "file with the library that wrote them, and name that"
        )
    content, header = _read_content(path)
    try:
        state, other = _unwrap(content)
        stored = header or (content.get("provenance") if isinstance(content, Mapping) else None)
        provenance = _read_provenance(stored) if isinstance(stored, Mapping) else None
    except WeightsError as error:
        raise WeightsError(f"weights={path}: {error}") from None
    tensors = {str(n): t.detach() for n, t in state.items() if isinstance(t, Tensor)}
    if not tensors:
        raise WeightsError(f"weights={path} holds no parameters")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise WeightsError(
                f"weights={path}: {printable(name)} is sparse or empty, not an array of numbers"
            )
    if ignored := [printable(n) for n, t in state.items() if not isinstance(t, Tensor)]:
        logger.info("weights=%s: not tensors, and ignored: %s", path, ", ".join(ignored[:8]))
    return WeightsFile(path, sha256_of(path), path.stat().st_size, tensors, other, provenance)


def _unwrap(content: Any) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The parameters inside `model` and `state_dict`, and everything else."""
    other: dict[str, Any] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            return {}, other
        found = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(found) > 1:
            raise WeightsError(
                "it holds both `model` and `state_dict`, and does not say which are the weights"
            )
        if not found:
            return _flatten(content), other
        other |= {str(k): v for k, v in content.items() if k not in (*found, "provenance")}
        content = content[found[0]]
    raise WeightsError(
        f"its weights lie more than {MAX_WRAPPERS} wrappers deep; save them as `model`"
    )


def _flatten(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """A state dict as it is; of dicts in dicts the tensors, by joined names, but an optimizer's."""
    if any(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    flat: dict[Any, Any] = {}
    todo, seen = [("", content)], {id(content)}
    for before, part in todo:  # which grows meanwhile
        for key, value in part.items():
            if isinstance(value, Tensor):
                flat[f"{before}{key}"] = value
            elif (
                isinstance(value, Mapping)
                and "param_groups" not in value
                and id(value) not in seen
                and before.count(".") < MAX_WRAPPERS
            ):
                seen.add(id(value))
                todo.append((f"{before}{key}.", value))
    return flat


class _Ignored:
    """In place of what is `IGNORED`; it takes what it is given, and does nothing with it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_content(path: Path) -> tuple[Any, dict[str, str] | None]:
    """What the container holds, and the texts in its header if it has one."""
    try:
        require_file(path)
        with path.open("rb") as opened:
            start = opened.read(32)
        if start[8:9] == b"{" or path.suffix == ".safetensors":  # a header of JSON
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, file.metadata()
        if any(sign in start for sign in TORCH):
            with torch.serialization.safe_globals([(_Ignored, name) for name in IGNORED]):
                return torch.load(path, map_location="cpu", weights_only=True), None
        return read_pickle(path), None
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise WeightsError(
            f"weights={path} is empty, truncated or of another kind than its name says: "
            f"{printable(str(error), 2000)}"
        ) from error
    except Exception as error:  # pickle.UnpicklingError, and what a torn archive makes of Python
        # torch's own message is long, and advises to run what is in the file.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is None:
            raise WeightsError(
                f"weights={path} is damaged, or holds more than tensors and plain values: "
                f"{printable(str(error), 300)}"
            ) from error
        raise WeightsError(
            f"weights={path} holds {printable(asked[1])}, and opening it could run code: where it "
            "was made, save the weights alone, torch.save(model.state_dict(), FILE)"
        ) from error


SUFFIXES = (".safetensors", ".pth", ".pkl")


def write_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    overwrite: bool = False,
) -> None:
    """Write a file that `read_weights` and, with these names, Detectron2 read; `overwrite` one.

    It is written under a temporary name, flushed and renamed. Its ending decides the kind:
    .safetensors, .pth, or Detectron2's .pkl.

    Raises WeightsError: there is such a file, or the kind is none or cannot hold a tensor's type;
    OSError: the disk is full or may not be written; nothing is left behind.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: write one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists; name another file, or allow it with --overwrite")
    for name, tensor in tensors.items():
        if tensor.dtype not in KNOWN_DTYPES:
            raise WeightsError(
                f"{path}: {printable(name)} has numbers of {tensor.dtype}, which not every reader "
                "knows; make them torch.float32 first"
            )
    # Clones: a view would take all of the tensor behind it along.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            temporary.touch()
            rights = temporary.stat().st_mode
            _write(temporary, plain, provenance)
            temporary.chmod(rights)  # safetensors makes files that only their owner may read
            flush(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, by kind of file
        why = disk_error(error, Path(path)) if isinstance(error, OSError) else error
        raise OSError(f"cannot write {path}, no part of it is left: {why}") from error


def _write(path: Path, tensors: dict[str, Tensor], provenance: Provenance) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt", **provenance.header()})
        _sort_header(path)
        return
    content: dict[str, Any] = {"model": tensors, "provenance": provenance.plain()}
    if path.suffix == ".pth":
        torch.save(content, path)
        return
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    except TypeError as error:  # bfloat16
        raise WeightsError(f"{path}: numpy has no such numbers ({error}); write .pth") from error
    # Detectron2 matches names by likeness unless the file says that they are exact.
    content |= {"model": arrays, "__author__": "panoptic-dl", "matching_heuristics": False}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def _sort_header(path: Path) -> None:
    """safetensors writes its texts in any order: sort them, so that equal content is equal files.

    The format: 8 bytes with the header's length, the header in JSON, the numbers.
    """
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))  # spaces, as the format allows
