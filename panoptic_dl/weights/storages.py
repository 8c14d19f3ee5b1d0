"""The numbers of a torch tensor in a pickle: a file of torch's old format, inside the file.

Read here and not by torch, which makes room for as many numbers as are claimed, opens compressed
archives, and hashes whatever is a key. As torch's `_legacy_save` writes it: a magic number, a
version, the writer's system, the storage's description, the list of storages, and the numbers.
"""

import io
from typing import Any

import torch
from torch import Tensor

from .errors import WeightsError
from .printable import printable
from .programs import ALLOWED_INSTRUCTIONS, Budget, PlainReader, Stand, check_program

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KINDS = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Described(Stand):
    """What the description says of the numbers."""

    __slots__ = ("count", "dtype")

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count


class _StorageReader(PlainReader):
    names = {}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        if module not in ("torch", "torch.cuda") or name not in KINDS:
            raise WeightsError(f"a tensor in it asks for {printable(f'{module}.{name}', 80)}")
        return KINDS[name]

    def persistent_load(self, pid: Any) -> _Described:
        """("storage", kind, key, device, number of values, None)"""
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[5] is not None:
            raise WeightsError("a tensor in it is described in an unknown form")
        if not isinstance(pid[1], torch.dtype) or type(pid[4]) is not int:
            raise WeightsError("a tensor in it is described in an unknown form")
        return _Described(pid[1], pid[4])


def read_storage(data: bytes, budget: Budget) -> Tensor:
    """A storage's numbers, as a flat tensor.

    Raises:
        WeightsError: it is torn, or of another form than torch writes.
    """
    stream = io.BytesIO(data)
    if _read(stream, budget) != MAGIC or _read(stream, budget) != VERSION:
        raise WeightsError("it holds a tensor in another form than torch's old one")
    _read(stream, budget)  # the writer's system, which has been little-endian ever since
    described = _read(stream, budget, "BINPERSID")
    keys = _read(stream, budget)
    if not isinstance(described, _Described) or not isinstance(keys, list) or len(keys) != 1:
        raise WeightsError("it holds a tensor with more than numbers inside")
    claimed = int.from_bytes(stream.read(8), "little", signed=True)
    raw = data[stream.tell() :]
    if claimed != described.count or len(raw) != claimed * described.dtype.itemsize:
        raise WeightsError(
            f"it holds a torn tensor: {len(raw)} bytes for {printable(claimed)} values"
        )
    budget.take("numbers of tensors", len(raw))
    if not raw:
        return torch.empty(0, dtype=described.dtype)
    return torch.frombuffer(bytearray(raw), dtype=described.dtype)


def _read(stream: io.BytesIO, budget: Budget, *more: str) -> Any:
    start = stream.tell()
    check_program(stream, len(stream.getbuffer()), ALLOWED_INSTRUCTIONS.union(more))
    end = stream.tell()
    stream.seek(start)
    reader = _StorageReader(stream, encoding="latin1")
    reader.budget = budget
    content = reader.load()
    stream.seek(end)
    return content
