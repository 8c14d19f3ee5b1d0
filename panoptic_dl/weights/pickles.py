"""Detectron2-style `.pkl` files, read without running anything that is in them.

A pickle is a program; `programs` checks and executes it, and what it may call is in `stand_ins`.
"""

import io
from pathlib import Path
from typing import Any

from .errors import WeightsError
from .printable import printable
from .programs import Budget, PlainReader, Stand, check_program
from .stand_ins import ALLOWED_NAMES, Array, Value


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
