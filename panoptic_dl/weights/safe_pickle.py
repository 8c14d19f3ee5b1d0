"""Read Detectron2-style `.pkl` weights without running anything that is in them.

A pickle is a program. `_Unpickler` is a restricted unpickler, as Python's documentation recommends
("Restricting Globals"): it executes only the instructions of plain values, and every name that a
file may refer to is a key of `NAMES` and stands for a function or class of this module, never for
numpy's or torch's own, which trust their arguments. It makes descriptions of arrays;
`_Converter` then makes tensors of them and bounds their number and size by the size of the file.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable

# Instructions that make plain containers and values, name something, call it, or use the memo.
INSTRUCTIONS = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2
    LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
""".split()  # noqa: SIM905
# Numbers only: dtypes of objects, text, records and dates are not weights.
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
MAX_DIMENSIONS = 8
SLACK = 1 << 16  # values and bytes that a file may hold beyond its own size
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch's format before zip archives


class _Dict(dict):  # type: ignore[type-arg]
    """In place of `OrderedDict`; Python 2 passes the items as a list of pairs."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        self.pairs = pairs

    def __setstate__(self, state: Any) -> None:
        """Attributes, such as `_metadata` of a state dict, are dropped."""


# Dataclasses with `eq` have no hash: like lists, they cannot be keys of a dict.
@dataclass
class _Dtype:
    """In place of `numpy.dtype`: a code such as "f4", and its byte order."""

    code: Any
    order: Any = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


@dataclass
class _Array:
    """In place of `numpy.ndarray`, or a number of a numpy type; not checked yet."""

    data: Any = None
    dtype: Any = None
    shape: Any = None
    column_major: Any = False
    is_scalar: bool = False

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.column_major, self.data = state


@dataclass
class _Tensor:
    """In place of `torch.Tensor`; not checked yet."""

    storage: Any  # bytes: a file in torch's old format
    offset: Any
    size: Any
    stride: Any


def _encode(text: Any, encoding: Any) -> Any:
    """Protocol 2 writes bytes as latin-1 text; it is encoded where an array is made of it."""
    if encoding != "latin1":
        raise WeightsError("it encodes text other than bytes")
    return text


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # protocol 2: the bytes of an empty array
    ("numpy", "dtype"): lambda code, *_: _Dtype(code),
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of `_reconstruct`, never called
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Tensor(*arguments[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): lambda data: data,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    NAMES |= {
        (f"{_core}.multiarray", "_reconstruct"): lambda *_: _Array(),
        (f"{_core}.multiarray", "scalar"): lambda dtype, data: _Array(
            data, dtype, [], is_scalar=True
        ),
        # protocol 5
        (f"{_core}.numeric", "_frombuffer"): lambda data, dtype, shape, order: _Array(
            data, dtype, shape, order == "F"
        ),
    }
for _name, _dtype in {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}.items():
    for _module in ("torch", "torch.cuda"):
        NAMES[_module, f"{_name}Storage"] = _dtype


def read_pickle(path: Path) -> Any:
    """Plain values and CPU tensors of a `.pkl`; WeightsError if it is damaged or asks for more."""
    data = path.read_bytes()
    try:
        stream = io.BytesIO(data)
        content = _load(stream)
        if rest := len(data) - stream.tell():
            raise WeightsError(f"{rest} bytes follow its end")
        return _Converter(len(data)).convert(content)
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


_Base: Any = pickle._Unpickler  # Any: typeshed hides its methods


def _refuse(instruction: str, _: Any) -> NoReturn:
    raise WeightsError(f"it uses the pickle instruction {instruction}, which weights do not need")


class _Unpickler(_Base):
    """Python's own unpickler in Python, whose instructions can be replaced.

    Tuples become lists: a hash of tuples in tuples takes time without a bound, or all of the stack.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise WeightsError(f"it asks for {printable(f'{module}.{name}', 80)}")
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """["storage", dtype, key, device, number of values, None] of a torch storage."""
        return pid

    def load_tuple(self) -> None:
        items = self.pop_mark()
        self.append(items)

    def load_short_tuple(self, size: int) -> None:
        self.stack[-size:] = [self.stack[-size:]]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (_Dict, _Dtype, _Array)):
            raise WeightsError("it tries to change an object")
        _Base.load_build(self)

    dispatch: dict[int, Callable[..., Any]] = {  # noqa: RUF012
        **{
            ord(opcode.code): _Base.dispatch[ord(opcode.code)]
            if opcode.name in INSTRUCTIONS
            else partial(_refuse, opcode.name)
            for opcode in pickletools.opcodes
        },
        pickle.EMPTY_TUPLE[0]: _Base.load_empty_list,
        pickle.TUPLE[0]: load_tuple,
        pickle.TUPLE1[0]: partial(load_short_tuple, size=1),
        pickle.TUPLE2[0]: partial(load_short_tuple, size=2),
        pickle.TUPLE3[0]: partial(load_short_tuple, size=3),
        pickle.BYTEARRAY8[0]: _Base.load_binbytes8,  # its own makes room for what is claimed
        pickle.BUILD[0]: load_build,
    }


def _load(stream: io.BytesIO) -> Any:
    return _Unpickler(stream, encoding="latin1").load()


class _Converter:
    """Makes plain containers and tensors of what an unpickler has made.

    A file can name one part of it a thousand times: each value, and each byte of a tensor, counts,
    up to the bytes of the file. A description that comes again, as of tied weights, is one tensor.
    """

    def __init__(self, size: int) -> None:
        self.left = size + SLACK
        self.made: dict[int, Any] = {}  # by the id of a description

    def count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise WeightsError("it holds more values than bytes")

    def convert(self, value: Any) -> Any:
        self.count(1)
        if isinstance(value, dict):
            pairs = [*getattr(value, "pairs", ()), *value.items()]
            return {key: self.convert(item) for key, item in pairs}
        if isinstance(value, list):
            return [self.convert(item) for item in value]
        if isinstance(value, (_Array, _Tensor)):
            if id(value) not in self.made:
                self.made[id(value)] = (
                    self.array(value) if isinstance(value, _Array) else self.tensor(value)
                )
            return self.made[id(value)]
        if value is None or isinstance(value, (str, bytes, int, float)):
            return value
        raise WeightsError("it holds something that is neither an array nor a plain value")

    def array(self, array: _Array) -> Any:
        if not isinstance(array.dtype, _Dtype):
            raise WeightsError("it holds an array without a dtype")
        code, order = array.dtype.code, array.dtype.order
        if code not in DTYPES or order not in ("<", ">", "|", "="):
            raise WeightsError(
                f"it holds an array of dtype {printable(code, 80)} and byte order "
                f"{printable(order, 80)}, and not of numbers"
            )
        data = _bytes(array.data)
        self.count(len(data))
        flat = np.frombuffer(data, np.dtype(code).newbyteorder(order))
        shape = _sizes(array.shape)
        if math.prod(shape) != flat.size:
            raise WeightsError(f"it holds an array of shape {shape} with {flat.size} values")
        native = flat.astype(flat.dtype.newbyteorder("="))
        numbers = native.reshape(shape, order="F" if array.column_major else "C")
        return numbers.item() if array.is_scalar else torch.from_numpy(np.array(numbers, order="C"))

    def tensor(self, tensor: _Tensor) -> Tensor:
        key = id(tensor.storage)
        if key not in self.made:
            self.made[key] = _read_storage(_bytes(tensor.storage))
        flat = self.made[key]
        size, stride, offset = _sizes(tensor.size), _sizes(tensor.stride), tensor.offset
        if type(offset) is not int or offset < 0 or len(size) != len(stride):
            raise WeightsError("it holds a tensor in an unknown form")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= flat.numel():
            raise WeightsError(f"it holds a tensor of shape {size} with {flat.numel()} values")
        self.count(math.prod(size) * flat.itemsize)
        return torch.as_strided(flat, size, stride, offset)


def _read_storage(data: bytes) -> Tensor:
    """(N,): the numbers of a storage as torch's `_legacy_save` writes it.

    Not read by torch, which makes room for as many numbers as are claimed, and opens
    compressed archives.
    """
    stream = io.BytesIO(data)
    magic, version, _system, described, _keys = (_load(stream) for _ in range(5))
    if magic != MAGIC or version != VERSION:
        raise WeightsError("it holds a tensor in another form than torch's old one")
    _, dtype, _, _, count, view = described
    if not isinstance(dtype, torch.dtype) or view is not None:
        raise WeightsError("a tensor in it is described in an unknown form")
    claimed = int.from_bytes(stream.read(8), "little", signed=True)
    raw = stream.read()
    if claimed != count or len(raw) != count * dtype.itemsize:
        raise WeightsError(
            f"it holds a torn tensor: {len(raw)} bytes for {printable(claimed)} values"
        )
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _bytes(data: Any) -> bytes:
    """Python 2, and protocol 2, have bytes as latin-1 text."""
    if not isinstance(data, (str, bytes)):
        raise WeightsError("it holds an array that is not made of bytes")
    return data.encode("latin1") if isinstance(data, str) else data


def _sizes(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise WeightsError("it holds an array without a shape")
    if not all(type(size) is int and 0 <= size < 2**48 for size in value):
        raise WeightsError("it holds an array whose shape is not made of numbers")
    return value
