"""Write weights with their provenance, whole or not at all."""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from panoptic_dl.whole_files import flush, sync_folder

from .dtypes import KNOWN
from .errors import WeightsError
from .printable import printable
from .provenance import Provenance
from .read import read_file

KINDS = (".safetensors", ".pth", ".pkl")
AUTHOR = "panoptic-dl"


def check_target(path: Path, overwrite: bool) -> None:
    """Raise before work is done for a file that cannot be written.

    Raises:
        WeightsError: an unknown kind of file, a missing folder, or a file that is there already.
    """
    if path.suffix not in KINDS:
        raise WeightsError(f"{path}: write one of {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists; name another file, or allow it with --overwrite")


def write_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    overwrite: bool = False,
) -> None:
    """Write a file that `read_file` and, with these names, Detectron2 read.

    It is written beside its place, flushed to disk, read again, held against what was to be
    written, and renamed: a file of this name is whole.

    Args:
        path: its ending decides the kind: .safetensors, .pth, or the .pkl of Detectron2.
        tensors: by the names that the model has, such as `backbone.conv1.weight`.
        overwrite: replace a file that is there.

    Raises:
        WeightsError: the file cannot be of this kind, is there already, or a tensor has a type that
            the kind cannot hold.
        OSError: the disk is full or may not be written; nothing is left behind.
    """
    path = Path(path)
    check_target(path, overwrite)
    if odd := [name for name, tensor in tensors.items() if tensor.dtype not in KNOWN]:
        raise WeightsError(
            f"{path}: {printable(odd[0])} has numbers of {tensors[odd[0]].dtype}, which not every "
            "reader knows; make them torch.float32 first"
        )
    # Clones: a view would take all of the tensor behind it along.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        temporary.touch()
        rights = temporary.stat().st_mode
        _write(temporary, plain, provenance)
        temporary.chmod(rights)  # safetensors makes files that only their owner may read
        flush(temporary)
        verify(temporary, plain)
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # what each kind says of a full disk
        raise OSError(
            f"cannot write {path}: {error}. No part of it is left; free some space or name another "
            "folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a file again and hold every value against what was to be written.

    Raises:
        OSError: they differ: a disk that does not keep what it is given.
    """
    again = read_file(path).tensors
    same = again.keys() == tensors.keys() and all(
        again[name].dtype == tensor.dtype
        and torch.equal(again[name].nan_to_num(), tensor.nan_to_num())
        for name, tensor in tensors.items()
    )
    if not same:
        raise OSError(f"{path} does not hold what was written; write it to another disk")


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
    # Detectron2 matches names by likeness unless it is told that they are exact.
    content |= {"model": arrays, "__author__": AUTHOR, "matching_heuristics": False}
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
