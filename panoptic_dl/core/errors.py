"""Errors whose message tells a user what is wrong and what to do; a run ends with exit code 1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


class DatasetError(ValueError):
    """Data is missing, half-prepared or damaged."""

    def __str__(self) -> str:
        # A DataLoader's worker process passes on its whole traceback: people need the last of it.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().rpartition(name)[2].strip()


class DemoError(ValueError):
    """An input or a setting of mode=demo that cannot be used."""


class WeightsError(ValueError):
    """A weights file is missing, unreadable, unsafe, or of another architecture."""


class EvaluationError(ValueError):
    """Predictions, ground truth or metrics that cannot be right."""


class UnreadableImageError(DatasetError, EvaluationError):
    """An image or label file cannot be read as what it should be; the message names it and why."""


class PartError(ValueError):
    """A part that a config names cannot be made of what the config gives it."""


def make_part(part: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Call a class or function that a config names.

    Raises:
        PartError: it was not written for this project, such as an optimizer of PyTorch or a user's
            backbone, and raised any error; the message names it and its keys.
    """
    function, keys = part, keywords
    if isinstance(part, partial):
        function, keys = part.func, part.keywords | keywords
    try:
        return part(*arguments, **keywords)
    except Exception as error:
        if str(getattr(function, "__module__", "")).startswith(f"{__package__.partition('.')[0]}."):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise PartError(f"{call_text(function, keys)}: {kind}{error}") from error


def call_text(function: Callable[..., Any], keys: Mapping[str, Any]) -> str:
    """ "while building torch.optim.SGD(lr, momentum)", the beginning of a message."""
    name = getattr(function, "__qualname__", str(function))
    return f"while building {getattr(function, '__module__', '')}.{name}({', '.join(keys)})"
