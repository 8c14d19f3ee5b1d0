"""Detectron2-style `.pkl` files, read without running anything that is in them.

A pickle is a program. Two gates stand before it: `_check_program` reads its instructions without
executing any and refuses those that weights do not need; `_Reader` then executes the rest, where
every name that the file may call stands for a function of this module and never for the original.
Arrays are made from their bytes here, so that numpy's and torch's own restoring code, which trusts
its input, sees none of it.
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .errors import WeightsError

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
# Numbers only: dtypes of objects, text, records and dates are not weights.
ALLOWED_DTYPES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
MOST_DIMENSIONS = 8


def read_pickle(path: Path) -> Any:
    """Return what a `.pkl` holds: plain values, and tensors on the CPU for its arrays.

    Raises:
        WeightsError: the file is damaged, or asks for more than arrays and plain values.
    """
    data = path.read_bytes()
    try:
        _check_program(data)
        content = _Reader(io.BytesIO(data), encoding="latin1").load()
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
            f"weights={path} is empty, truncated or no pickle: {type(error).__name__}: {error}"
        ) from error


def _check_program(data: bytes) -> None:
    """Refuse instructions outside the list, and memo places that only exhaust memory."""
    stop = -1
    for instruction, argument, position in pickletools.genops(data):
        name = instruction.name
        if name not in ALLOWED_INSTRUCTIONS:
            raise WeightsError(f"it uses the pickle instruction {name}, which weights do not need")
        if name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(data):
            raise WeightsError(f"it asks for {argument} places of memory")
        stop = position or 0
    if stop != len(data) - 1:
        raise WeightsError(f"{len(data) - 1 - stop} bytes follow its end")


class _Stand:
    """Something on the pickle's stack, which the pickle may not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise WeightsError("it tries to change an object")


class _Callable(_Stand):
    """A name that the file may call."""

    __slots__ = ("make",)
    make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "make", make)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise WeightsError("it tries to change an object")

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


class _Dict(dict):
    """In the place of `OrderedDict`; attributes such as a state dict's `_metadata` are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Value(_Stand):
    """A finished tensor or number."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Dtype(_Stand):
    """In the place of `numpy.dtype`: a code such as "f4", and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ALLOWED_DTYPES:
            raise WeightsError(f"it holds an array of dtype {_short(code)}, and not of numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise WeightsError(f"it holds a dtype with the byte order {_short(order)}")
        self.order = order

    def read(self, data: Any) -> np.ndarray:
        """Bytes (or latin-1 text, from Python 2) -> flat array in this machine's byte order."""
        if isinstance(data, str):
            data = data.encode("latin1")
        if not isinstance(data, (bytes, bytearray)):
            raise WeightsError("it holds an array that is not made of bytes")
        kind = np.dtype(self.order + self.code)
        return np.frombuffer(data, kind).astype(kind.newbyteorder("="))


class _Array(_Stand):
    """In the place of `numpy.ndarray`, empty until its state comes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("it holds an array in an unknown form")
        _, shape, dtype, column_major, data = state
        if not isinstance(dtype, _Dtype):
            raise WeightsError("it holds an array without a dtype")
        shape = _sizes(shape)
        flat = dtype.read(data)
        if math.prod(shape) != flat.size:
            raise WeightsError(f"it holds an array of shape {shape} with {flat.size} values")
        array = flat.reshape(shape, order="F" if column_major else "C")
        self.value = _tensor(array)


class _Storage(_Stand):
    """The flat numbers of a torch tensor."""

    __slots__ = ("flat",)

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MOST_DIMENSIONS:
        raise WeightsError("it holds an array without a shape")
    if not all(type(number) is int and 0 <= number < 2**48 for number in value):
        raise WeightsError(f"it holds an array of shape {_short(value)}")
    return value


def _tensor(array: np.ndarray) -> Tensor:
    """torch knows unsigned numbers only of 8 bits; no weights are such, so others are refused."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise WeightsError(f"it holds an array of dtype {array.dtype}") from error


def _scalar(dtype: Any, data: Any) -> _Value:
    if not isinstance(dtype, _Dtype):
        raise WeightsError("it holds a number without a dtype")
    return _Value(dtype.read(data).reshape(()).item())


def _bytes_of(text: Any, encoding: Any) -> bytes:
    """Protocol 2 has no bytes and writes them as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise WeightsError("it encodes text other than bytes")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """Protocol 2 writes the bytes of an empty array as a call of `bytes`."""
    if arguments:
        raise WeightsError("it makes bytes of something")
    return b""


def _load_storage(data: Any) -> _Storage:
    """A storage is a torch file inside the pickle; torch itself would open it unrestricted."""
    if not isinstance(data, bytes):
        raise WeightsError("it holds a tensor that is not made of bytes")
    try:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        with warnings.catch_warnings():  # typed storages are deprecated, and what pickles hold
            warnings.simplefilter("ignore", UserWarning)
            kind, raw = storage.dtype, storage.untyped()
    except Exception as error:
        raise WeightsError(
            "it holds a tensor with more than numbers inside, or a torn one"
        ) from error
    return _Storage(torch.empty(0, dtype=kind).set_(raw))


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Value:
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise WeightsError("it holds a tensor without numbers")
    size, stride = _sizes(size), _sizes(stride)
    if len(size) != len(stride):
        raise WeightsError("it holds a tensor whose shape and strides differ in length")
    length = storage.flat.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= length or math.prod(size) > length):
        raise WeightsError(f"it holds a tensor of shape {size} with {length} values")
    return _Value(torch.as_strided(storage.flat, size, stride, offset).clone())


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _dtype(code: Any, *flags: Any) -> _Dtype:
    return _Dtype(code, *flags)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    """Protocol 5 calls this in the place of `_reconstruct`."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _mapping(pairs: Any = ()) -> _Dict:
    return _Dict(pairs if isinstance(pairs, list) else ())


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


class _Reader(pickle.Unpickler):
    """Executes a checked pickle; names outside the list are refused, the others are ours."""

    def find_class(self, module: str, name: str) -> Any:
        make = ALLOWED_NAMES.get((module, name))
        if make is None:
            raise WeightsError(f"it asks for {_short(f'{module}.{name}')}")
        return _Callable(make)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise WeightsError("it refers to something outside of the file")


def _unwrap(value: Any, budget: list[int]) -> Any:
    """Plain containers and tensors in the place of ours; `budget` bounds the work by file size."""
    budget[0] -= 1
    if budget[0] < 0:
        raise WeightsError("it holds more values than bytes")
    if isinstance(value, dict):
        return {_unwrap(k, budget): _unwrap(v, budget) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unwrap(item, budget) for item in value]
    if isinstance(value, (_Value, _Array)):
        return value.value
    if isinstance(value, _Stand):
        raise WeightsError("it holds something that is neither an array nor a plain value")
    return value


def _short(value: Any) -> str:
    return repr(value)[:80]
