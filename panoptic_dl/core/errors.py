"""Errors whose message tells a user what is wrong and what to do, and how they end a program."""

import contextlib
import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_dl.core.files import visible

PACKAGE = Path(__file__).resolve().parents[1]
OURS = tuple(
    f"{PACKAGE.with_name(name)}{end}"
    for name, end in ((PACKAGE.name, os.sep), ("scripts", os.sep), ("run.py", ""))
)
INSTALLED = (os.path.realpath(sysconfig.get_path("stdlib")), "<")  # "<frozen ...>"
FAULT = "This is a fault of panoptic-dl. Please report it as an issue of its repository, with "
LOST = "DistBackendError|DistNetworkError|gloo.*(onnection|peer)|NCCL"
REMOTE = "Original Traceback (most recent call last):"  # in messages of DataLoader's processes
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)\n(?: +(.*))?', re.MULTILINE)


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


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one message for what its user can mend, also as a decorator.

    Of a fault of ours the message follows the traceback, as HYDRA_FULL_ERROR=1 shows it of all.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = message_for_user(error)
        if text is None:
            trace = "".join(traceback.format_exception(error))
            raise SystemExit(f"{trace}\nerror: {error!r}\n{FAULT}these lines") from None
        raise SystemExit(visible(f"error: {text}")) from None


def message_for_user(error: Exception) -> str | None:
    """What a user reads of an error: what is wrong, and what to do; None for a fault of ours.

    OSError, FloatingPointError, what Hydra and OmegaConf raise, and ValueErrors of a `raise` have
    messages for people, unless a library that we have called raised them. For others it counts
    whose code raised them, or called the library that did: ours, or a user's own.
    """
    text, kind, trace = str(error), type(error).__name__, traceback.format_tb(error.__traceback__)
    module = type(error).__module__.partition(".")[0]
    remote = text if REMOTE in text else str(error.__cause__ or "")
    if text.startswith("Caught ") and REMOTE in text:
        text = text.rpartition(f"{kind}: ")[2].strip()
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return text + (". Free some room and run the same command again" if full else "")
    if re.search(r"(^|site-packages.)(hydra|omegaconf)\b", "".join([module, *trace[-1:]])):
        return one_line(text)
    if isinstance(error, FloatingPointError):
        return text
    if isinstance(error, ImportError):
        return f"{text}; optional packages: pip install 'panoptic-dl[search,launchers,timm,wandb]'"
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":  # of PyTorch
        return f"memory ran out: take fewer images at once, train.images_per_gpu=1 ({kind}: {text})"
    if isinstance(error, RuntimeError) and re.search(LOST, f"{kind}: {text}"):
        from detectron2.utils import comm  # slow, and not needed for the errors of scripts

        if comm.get_world_size() > 1:
            return f"another process of the run is lost, whose message says why ({kind}: {text})"
    frames = _FRAME.findall("".join(trace) + (remote if '  File "' in remote else ""))
    for i, (file, line, function, code) in enumerate(reversed(frames)):
        real = file if file.startswith("<") else os.path.realpath(file)
        is_installed = real.startswith(INSTALLED) or "site-packages" in real
        if isinstance(error, ValueError) and (
            module == PACKAGE.name or (i == 0 and not is_installed and code.startswith("raise "))
        ):
            return text
        if real.startswith(OURS):
            break
        if not is_installed:
            return f"{kind}: {text}\nin {function}, {real}, line {line}, not of panoptic-dl"
    return None


def one_line(error: object) -> str:
    """A message of Hydra or OmegaConf without what follows it: links, search paths, types."""
    text = str(error)
    unset = re.search(r"Environment variable '(\w+)' not found", text)
    if unset is not None:
        key = re.search(r"full_key: (\S+)", text)
        return (
            f"{key[1] + ': ' if key else ''}the environment variable {unset[1]} is not set: export "
            f"{unset[1]}=..., or give a default, ${{oc.env:{unset[1]},DEFAULT}}"
        )
    lines = [line.strip() for line in text.partition("Config search path:")[0].splitlines()]
    skipped = ("See https://hydra.cc", "object_type=", "reference_type=")
    return " ".join(line for line in lines if line and not line.startswith(skipped))
