"""What stands on a pickle's stack in the place of numpy's and torch's arrays.

Made from bytes with every shape checked; numpy's and torch's own restoring code, which trusts
its input, sees none of it. `ALLOWED_NAMES` is all that a pickle may call.
"""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .errors import WeightsError
from .printable import printable
from .programs import Budget, Stand, check_keys
from .storages import read_storage

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
