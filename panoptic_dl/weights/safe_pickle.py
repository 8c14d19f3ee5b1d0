"""Detectron2-style `.pkl` files, read without running anything that is in them.

A pickle is a program; `programs` checks and executes it, and what it may call is in `stand_ins`.

Pickles are programs: which instructions weights need, and what executes just these.

Two gates. `check_program` reads the instructions without executing any and refuses those outside
the list; `PlainReader` executes the rest, where every name that the file may call stands for a
function of ours and never for the original.

What stands on a pickle's stack in the place of numpy's and torch's arrays.

Made from bytes with every shape checked; numpy's and torch's own restoring code, which trusts
its input, sees none of it. `ALLOWED_NAMES` is all that a pickle may call.

The numbers of a torch tensor in a pickle: a file of torch's old format, inside the file.

Read here and not by torch, which makes room for as many numbers as are claimed, opens compressed
archives, and hashes whatever is a key. As torch's `_legacy_save` writes it: a magic number, a
version, the writer's system, the storage's description, the list of storages, and the numbers.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable

# Instructions that make plain containers and values, name something, call it, or use the memo.
ALLOWED_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
        *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
SLACK = 1 << 16  # bytes beside a budget, for what is made of almost nothing


class Budget:
    """Bytes that a file may make of each kind: as many as it has itself.

    A file can name one part of it a thousand times, and each time it would be copied.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.spent: dict[str, int] = {}

    def take(self, kind: str, size: int) -> None:
        """Count bytes before they are made.

        Raises:
            WeightsError: there are more than the file has.
        """
        self.spent[kind] = self.spent.get(kind, 0) + size
        if self.spent[kind] > self.size + SLACK:
            raise WeightsError(f"it makes more {kind} than it has bytes")


class Stand:
    """Something on the pickle's stack, which the pickle may not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise WeightsError("it tries to change an object")


class Function(Stand):
    """A name that the file may call."""

    __slots__ = ("budget", "make")
    make: Callable[..., Any]
    budget: Budget

    def __init__(self, make: Callable[..., Any], budget: Budget) -> None:
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "budget", budget)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise WeightsError("it tries to change a function")

    def __call__(self, *arguments: Any) -> Any:
        return self.make(self.budget, *arguments)


def check_program(
    data: io.BytesIO, size: int, allowed: frozenset[str] = ALLOWED_INSTRUCTIONS
) -> None:
    """Refuse instructions outside the list, and memo places that only exhaust memory.

    Args:
        data: read from where it is to behind the program's end.
        size: bytes in all.

    Raises:
        WeightsError: there is such an instruction.
    """
    for instruction, argument, _ in pickletools.genops(data):
        name = instruction.name
        if name not in allowed:
            raise WeightsError(f"it uses the pickle instruction {name}, which weights do not need")
        if name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= size:
            raise WeightsError(f"it asks for {printable(argument)} places of memory")


_Unpickler: Any = pickle._Unpickler  # Any: typeshed hides how it is made


class PlainReader(_Unpickler):
    """Executes a checked program; names outside `names` are refused, the others are ours.

    It is Python's own reader in Python and not the one in C: keys of dicts can be looked at before
    they are hashed. The hash of nested tuples takes time without a bound, or all of the stack.
    """

    names: Mapping[tuple[str, str], Callable[..., Any]]
    budget: Budget

    def find_class(self, module: str, name: str) -> Any:
        make = self.names.get((module, name))
        if make is None:
            raise WeightsError(f"it asks for {printable(f'{module}.{name}', 80)}")
        return Function(make, self.budget)

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError("it refers to something outside of the file")

    def check_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        _Unpickler.load_setitem(self)

    def check_setitems(self) -> None:
        check_keys(self.stack[::2])  # what lies above the mark: key, value, key, value
        _Unpickler.load_setitems(self)

    def check_dict(self) -> None:
        check_keys(self.stack[::2])
        _Unpickler.load_dict(self)

    dispatch = {  # noqa: RUF012
        **_Unpickler.dispatch,
        pickle.SETITEM[0]: check_setitem,
        pickle.SETITEMS[0]: check_setitems,
        pickle.DICT[0]: check_dict,
    }


def check_keys(keys: list[Any]) -> None:
    """Refuse keys of dicts that are not texts or numbers.

    Raises:
        WeightsError: there is one.
    """
    for key in keys:
        if type(key) not in (str, int, float, bool, bytes, type(None)):
            raise WeightsError(f"it names a value by {printable(key)}, and not by a text or number")


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


# Numbers only: dtypes of objects, text, records and dates are not weights.
ALLOWED_DTYPES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
MOST_DIMENSIONS = 8


class _Dict(dict):
    """In the place of `OrderedDict`; attributes such as a state dict's `_metadata` are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Value(Stand):
    """A finished tensor or number."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Dtype(Stand):
    """In the place of `numpy.dtype`: a code such as "f4", and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if type(code) is not str or code not in ALLOWED_DTYPES:
            raise WeightsError(
                f"it holds an array of dtype {printable(code, 80)}, and not of numbers"
            )
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if type(order) is not str or order not in ("<", ">", "|", "="):
            raise WeightsError(f"it holds a dtype with the byte order {printable(order, 80)}")
        self.order = order

    def read(self, budget: Budget, data: Any) -> np.ndarray:
        """Bytes (or latin-1 text, from Python 2) -> flat array in this machine's byte order."""
        if isinstance(data, str):
            budget.take("text of arrays", len(data))
            data = data.encode("latin1")
        if not isinstance(data, (bytes, bytearray)):
            raise WeightsError("it holds an array that is not made of bytes")
        budget.take("numbers of arrays", len(data))
        kind = np.dtype(self.order + self.code)
        return np.frombuffer(data, kind).astype(kind.newbyteorder("="))


class Array(Stand):
    """In the place of `numpy.ndarray`, empty until its state comes."""

    __slots__ = ("budget", "value")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.value: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("it holds an array in an unknown form")
        _, shape, dtype, column_major, data = state
        if not isinstance(dtype, _Dtype):
            raise WeightsError("it holds an array without a dtype")
        shape = _sizes(shape)
        flat = dtype.read(self.budget, data)
        if math.prod(shape) != flat.size:
            raise WeightsError(f"it holds an array of shape {shape} with {flat.size} values")
        array = flat.reshape(shape, order="F" if column_major else "C")
        self.value = _tensor(array)


class _Storage(Stand):
    """The flat numbers of a torch tensor."""

    __slots__ = ("flat",)

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MOST_DIMENSIONS:
        raise WeightsError("it holds an array without a shape")
    if not all(type(number) is int and 0 <= number < 2**48 for number in value):
        raise WeightsError(f"it holds an array of shape {_numbers(value)}")
    return value


def _tensor(array: np.ndarray) -> Tensor:
    """torch knows unsigned numbers only of 8 bits; no weights are such, so others are refused."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise WeightsError(f"it holds an array of dtype {array.dtype}") from error


def _scalar(budget: Budget, dtype: Any, data: Any) -> Value:
    if not isinstance(dtype, _Dtype):
        raise WeightsError("it holds a number without a dtype")
    return Value(dtype.read(budget, data).reshape(()).item())


def _bytes_of(budget: Budget, text: Any, encoding: Any) -> bytes:
    """Protocol 2 has no bytes and writes them as text."""
    if not isinstance(text, str) or type(encoding) is not str or encoding != "latin1":
        raise WeightsError("it encodes text other than bytes")
    budget.take("bytes of text", len(text))
    return text.encode("latin1")


def _no_bytes(_: Budget, *arguments: Any) -> bytes:
    """Protocol 2 writes the bytes of an empty array as a call of `bytes`."""
    if arguments:
        raise WeightsError("it makes bytes of something")
    return b""


def _load_storage(budget: Budget, data: Any) -> _Storage:
    if not isinstance(data, bytes):
        raise WeightsError("it holds a tensor that is not made of bytes")
    return _Storage(read_storage(data, budget))


def _rebuild_tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> Value:
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise WeightsError("it holds a tensor without numbers")
    size, stride = _sizes(size), _sizes(stride)
    if len(size) != len(stride):
        raise WeightsError("it holds a tensor whose shape and strides differ in length")
    length = storage.flat.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= length or math.prod(size) > length):
        raise WeightsError(f"it holds a tensor of shape {size} with {length} values")
    budget.take("tensors", math.prod(size) * storage.flat.itemsize)
    return Value(torch.as_strided(storage.flat, size, stride, offset).clone())


def _rebuild_parameter(_: Budget, data: Any, *__: Any) -> Any:
    return data


def _dtype(_: Budget, code: Any, *flags: Any) -> _Dtype:
    return _Dtype(code, *flags)


def _reconstruct(budget: Budget, *_: Any) -> Array:
    return Array(budget)


def _from_buffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
    """Protocol 5 calls this in the place of `_reconstruct`."""
    array = Array(budget)
    array.__setstate__((1, shape, dtype, type(order) is str and order == "F", data))
    return array


def _mapping(_: Budget, pairs: Any = ()) -> _Dict:
    """Python 2 gives the pairs as an argument, each a list or tuple."""
    pairs = pairs if isinstance(pairs, list) else []
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise WeightsError("it holds a dict without pairs")
    check_keys([pair[0] for pair in pairs])
    return _Dict(pairs)


def _numbers(values: tuple[Any, ...]) -> str:
    return "(" + ", ".join(printable(value, 20) for value in values) + ")"


def _no_call(*_: Any) -> NoReturn:
    raise WeightsError("it calls numpy.ndarray by itself")


ALLOWED_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _mapping,
    ("_codecs", "encode"): _bytes_of,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _no_call,  # named as an argument only
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    ALLOWED_NAMES |= {
        (f"{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _from_buffer,
    }


def read_pickle(path: Path) -> Any:
    """Return what a `.pkl` holds: plain values, and tensors on the CPU for its arrays.

    Raises:
        WeightsError: the file is damaged, or asks for more than arrays and plain values.
    """
    data = path.read_bytes()
    try:
        stream = io.BytesIO(data)
        check_program(stream, len(data))
        if rest := len(data) - stream.tell():
            raise WeightsError(f"{rest} bytes follow its end")
        stream.seek(0)
        reader = _Reader(stream, encoding="latin1")
        reader.budget = Budget(len(data))
        content = reader.load()
        return _unwrap(content, [len(data)])
    except WeightsError as error:
        raise WeightsError(
            f"weights={path} is refused: {error}. Nothing in it was run; ask its authors for "
            ".safetensors"
        ) from None
    except RecursionError as error:
        raise WeightsError(f"weights={path} is refused: it is nested too deeply") from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        raise WeightsError(
            f"weights={path} is empty, truncated or no pickle: {type(error).__name__}: "
            f"{printable(str(error))}"
        ) from error


class _Reader(PlainReader):
    names = ALLOWED_NAMES


def _unwrap(value: Any, budget: list[int]) -> Any:
    """Plain containers and tensors in the place of ours; `budget` bounds the work by file size."""
    budget[0] -= 1
    if budget[0] < 0:
        raise WeightsError("it holds more values than bytes")
    if isinstance(value, dict):
        return {_unwrap(k, budget): _unwrap(v, budget) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unwrap(item, budget) for item in value]
    if isinstance(value, (Value, Array)):
        return value.value
    if isinstance(value, Stand):
        raise WeightsError("it holds something that is neither an array nor a plain value")
    return value
