"""What readers of predictions share: JSON that may be torn, and the size of the image."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_dl.evaluation.damage import unreadable
from panoptic_dl.evaluation.figures import EvaluationError

AGAIN = "unpack or download it again, or predict again"


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        EvaluationError: it cannot be read, or is none.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise EvaluationError(f"{file} is no readable JSON file ({error}); {AGAIN}") from error


def entries_of(file: Path, content: Any, keys: Mapping[str, tuple[type, ...]]) -> list[Any]:
    """Check that a JSON file holds a list of objects with these keys, of these types.

    Raises:
        EvaluationError: it does not.
    """
    if not isinstance(content, list):
        raise EvaluationError(
            f"{file} holds no list of predictions: is it an annotation file? {AGAIN}"
        )
    for position, entry in enumerate(content):
        for key, types in keys.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, types) or isinstance(value, bool):
                raise EvaluationError(
                    f'{file}: entry {position} has no valid "{key}"; write it in COCO\'s format of '
                    "results, with a number or text as the format says"
                )
    return content


def size_of(item: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a model's input as a file; read from the file where the item says neither.

    Raises:
        EvaluationError: the file cannot be read.
    """
    if "height" in item and "width" in item:
        return int(item["height"]), int(item["width"])
    try:
        with Image.open(item["file_name"]) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise unreadable([Path(item["file_name"])], error) from error


def require_size(file: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise `EvaluationError` unless a picture has the size of the image, (height, width)."""
    if found != size:
        raise EvaluationError(
            f"{file} is {found}, the image {size} (height, width): predict at the size of the "
            "image file"
        )
