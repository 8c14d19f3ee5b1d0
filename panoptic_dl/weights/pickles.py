"""Detectron2-style `.pkl` files, read without running anything that is in them.

A pickle is a program. Two gates stand before it: `_check_program` reads its instructions without
executing any and refuses those that weights do not need; `_Reader` then executes the rest, where
every name that the file may call stands for a function in `stand_ins` and never for the original.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from .errors import WeightsError
from .stand_ins import ALLOWED_NAMES, Array, Function, Stand, Value, short

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


class _Reader(pickle.Unpickler):
    """Executes a checked pickle; names outside the list are refused, the others are ours."""

    def find_class(self, module: str, name: str) -> Any:
        make = ALLOWED_NAMES.get((module, name))
        if make is None:
            raise WeightsError(f"it asks for {short(f'{module}.{name}')}")
        return Function(make)

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
    if isinstance(value, (Value, Array)):
        return value.value
    if isinstance(value, Stand):
        raise WeightsError("it holds something that is neither an array nor a plain value")
    return value
