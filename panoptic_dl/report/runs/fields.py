"""Values of a JSON file, each of the kind that it should be; errors name the file's key."""

import json
import math
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LARGEST = 32 << 20  # bytes: files of this kind have some KiB


def regular_size(file: Path) -> int:
    """Bytes of a file; ValueError for pipes and the like, which could be waited for forever."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file.name} is no file")
    return found.st_size


def printable(text: str) -> str:
    """Text that can be written: halves of characters, as of a file's damaged name, become "?"."""
    return text.encode("utf-8", "replace").decode()


def read_json(file: Path) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is no JSON, no object, or far too large; the message is for people.
        OSError: it cannot be opened.
    """
    size = regular_size(file)
    if size > LARGEST:
        raise ValueError(f"{file.name} has {size:,} bytes: it is no file of a run")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "is empty" if not size else f"is no whole JSON file ({error})"
        raise ValueError(f"{file.name} {what}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file.name} holds a {type(data).__name__} in place of an object")
    whole: Mapping[str, Any] = json.loads(printable(json.dumps(data, ensure_ascii=False)))
    return whole


class Fields:
    """Reads the keys of one object; a key that is missing or null gives what stands for nothing."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def text(self, key: str, *, required: bool = False) -> str:
        value = self._get(key, str, "text")
        if required and not value:
            raise ValueError(f"{self.where}: {key} is missing")
        return "" if value is None else str(value)

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool, "true or false"))

    def number(self, key: str) -> float:
        """NaN where there is none."""
        value = self._get(key, (int, float), "a number")
        if isinstance(value, bool):
            raise ValueError(f"{self.where}: {key} must be a number, not {value!r}")
        try:
            return math.nan if value is None else float(value)
        except OverflowError:  # a number of hundreds of digits
            return math.inf

    def object(self, key: str) -> "Fields":
        value = self._get(key, dict, "an object")
        return Fields(value or {}, f"{self.where}: {key}")

    def texts(self, key: str) -> Sequence[str]:
        return [str(value) for value in self._get(key, list, "a list") or ()]

    def objects(self, key: str) -> Sequence["Fields"]:
        found = self._get(key, list, "a list") or []
        if not all(isinstance(item, dict) for item in found):
            raise ValueError(f"{self.where}: {key} must be a list of objects")
        return [Fields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(found)]

    def numbers(self) -> Mapping[str, float]:
        """All of this object, which holds nothing but numbers, or null for NaN."""
        return {str(key): self.number(key) for key in self.data}

    def _get(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        value = self.data.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{self.where}: {key} must be {expected}, not {str(value)[:80]!r}")
        return value
