"""Write `.safetensors`, `.pth` and `.pkl` with their provenance."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from panoptic_dl.core.errors import WeightsError, disk_error
from panoptic_dl.core.files import atomic_write, flush, printable
from panoptic_dl.weights.names import KNOWN_DTYPES
from panoptic_dl.weights.read import Provenance

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
