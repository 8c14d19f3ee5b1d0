"""Errors whose message tells a user what is wrong and what to do, and how they end a program."""

import contextlib
import errno
import io
import os
import re
import resource
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from panoptic_dl.core.files import PACKAGE, ROOT, visible

OURS = (f"{PACKAGE}{os.sep}", f"{ROOT / 'scripts'}{os.sep}", f"{ROOT / 'run.py'}")
INSTALLED = (os.path.realpath(sysconfig.get_path("stdlib")), "<")  # "<frozen ...>"
FAULT = "This is a fault of panoptic-dl. Please report it as an issue of its repository, with "
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LOST_PROCESS = "another process of the run is lost"
LOST = "DistBackendError|DistNetworkError|gloo.*(onnection|peer)|NCCL"
REMOTE = "Original Traceback (most recent call last):"  # in messages of DataLoader's processes
CURES = {
    errno.ENOSPC: "Free some room",
    errno.EDQUOT: "The quota there is used up: remove files of yours, or have it raised",
    errno.EACCES: "Give this user the rights to it",
    errno.EROFS: "Mount that disk for writing, or choose another folder",
    errno.ENAMETOOLONG: "That disk takes shorter names",
}
FEW_INODES = 4
# What a message of PyTorch about a device means, and what to do.
DEVICE_ERRORS = {
    r"out of memory|OutOfMemoryError|MemoryError|ALLOC_FAILED": "memory ran out: take fewer images "
    "at once, train.images_per_gpu=1, compute activations again, train.activation_checkpointing="
    "true, or train.precision=bf16",
    r"no kernel image|[Dd]river (version|on your)|NVIDIA driver|unsupported display driver": "this "
    "torch does not fit the GPU or its driver: docs/start/install.md names the one to take",
    "NCCL|Dist(Backend|Network|Store)Error": "the processes of the run cannot reach each other: "
    "NCCL_DEBUG=INFO before the command says more. Often NCCL_SOCKET_IFNAME must name the network "
    "between machines, or /dev/shm is small (docker run --shm-size=8g)",
    "AcceleratorError|CUDA error|CUDNN_STATUS|CUBLAS_STATUS": "the GPU has failed; resume=true "
    "goes on. If it happens again, `dmesg | grep Xid` tells whether the card is damaged, and "
    "CUDA_LAUNCH_BLOCKING=1 which operation it is",
}
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
    steady_output()
    try:
        yield
    except KeyboardInterrupt:
        leave()
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
    if kind == "ProcessRaisedException":  # in a process that could not begin: its own message
        text = text.rpartition("\n    ")[2].partition("\n")[2].strip()
    if lost := _lost_process(error, trace):
        return lost
    if isinstance(error, OSError):
        if error.strerror is None:
            return text
        name = f"{error.filename}: " if error.filename else ""
        again = " and run the same command again" if error.errno in CURES else ""
        return f"{name}{disk_error(error)}{again}"
    if re.search(r"(^|site-packages.)(hydra|omegaconf)\b", "".join([module, *trace[-1:]])):
        return one_line(text)
    if isinstance(error, FloatingPointError):
        return text
    if isinstance(error, ImportError):
        return f"{text}; {import_advice(error)}"
    if isinstance(error, RuntimeError) and re.search(LOST, f"{kind}: {text}"):
        from detectron2.utils import comm  # slow, and not needed for the errors of scripts

        if comm.get_world_size() > 1:
            return f"{LOST_PROCESS}; its own message says why, or the last one ({kind}: {text})"
    if isinstance(error, RuntimeError | MemoryError) or kind == "ProcessRaisedException":
        for pattern, cure in DEVICE_ERRORS.items():
            if re.search(pattern, f"{kind}: {text}") and "device-side assert" not in text:
                return f"{cure} ({kind}: {text})"
    frames = _FRAME.findall("".join(trace) + (remote if '  File "' in remote else ""))
    for i, (file, line, function, code) in enumerate(reversed(frames)):
        real = file if file.startswith("<") else os.path.realpath(file)
        is_ours = real.startswith(OURS)
        is_installed = not is_ours and (real.startswith(INSTALLED) or "site-packages" in real)
        if isinstance(error, ValueError) and (
            module == PACKAGE.name or (i == 0 and not is_installed and code.startswith("raise "))
        ):
            return text
        if is_ours:
            break
        if not is_installed:
            return f"{kind}: {text}\nin {function}, {real}, line {line}, not of panoptic-dl"
    return None


def import_advice(error: ImportError) -> str:
    """How to get what could not be imported."""
    if (error.name or "").partition(".")[0] == "detectron2":
        return (
            "`panoptic-dl setup-detectron2` installs Detectron2, which PyPI does not have under "
            "its name; an official build does as well"
        )
    extras = "search,launchers,timm,wandb,mlflow,export,openvino,serve,hub"
    return f"all packages, also optional ones: pip install 'panoptic-dl[{extras}]'"


def _lost_process(error: BaseException, trace: Sequence[str]) -> str | None:
    """What a user reads where a loader process was killed, or may not open enough files."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    said = "\n".join(f"{type(each).__name__}: {each}" for each in causes)
    if re.search(r"Errno 24\b|Too many open files|ancdata", said):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"a process may have {limit} files open, and needs more: `ulimit -n 65536` before the "
            "command, or a smaller train.batch_size or train.num_workers"
        )
    died = re.search(r"DataLoader worker \(pid.*", said)
    is_torn = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
    if died is None and not (is_torn and any("multiprocessing/reductions" in x for x in trace)):
        return None
    what, cure = died[0].strip() if died else repr(error), "mostly memory ran out: take fewer"
    if "Bus error" in what:
        cure = "/dev/shm is full: make it larger (docker run --shm-size=8g), or take fewer"
    elif re.search("Segmentation|Abort|exit code", what):
        cure = "a library crashed in it: 0 shows where"
    return f"a loader process died, {cure} (train.num_workers). resume=true goes on ({what})"


def how_it_ended(code: int) -> str:
    """How a process ended that left no word, from its exit code in Python's way: -9 is SIGKILL."""
    if code >= 0:
        return f"ended with exit code {code}"
    causes = {
        "SIGKILL": "memory ran out",
        "SIGBUS": "/dev/shm is full (docker run --shm-size=8g)",
        "SIGSEGV": "a bug",
    }
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (f": mostly {causes[name]}" if name in causes else "")


def disk_error(error: OSError, file: Path | None = None) -> str:
    """What really happened to the file that an error names, or that was to be written; its cure."""
    place = Path(file or error.filename or ".").absolute().parent
    if file is not None and not place.is_dir():
        return f"the folder {place} is gone, removed or renamed"
    cure = CURES.get(error.errno or 0, "")
    with contextlib.suppress(OSError):
        found = os.statvfs(place)
        # A few: what could not be written was removed again, as were locks.
        if error.errno == errno.ENOSPC and found.f_files and found.f_favail < FEW_INODES:
            cure = "It has bytes, but no inodes: remove some of its many files"
    return ". ".join(filter(None, (error.strerror or str(error), cure)))


@contextlib.contextmanager
def name_unwritable(file: Path) -> Iterator[None]:
    """Turn an OSError into an EvaluationError that names the file."""
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"cannot write {file}: {disk_error(error, file)}; or save predictions in another folder"
        ) from error


class SteadyFile(io.FileIO):
    """A file whose writes raise no OSError: what it cannot take is dropped, which is said once."""

    _has_said = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._has_said and error.errno != errno.EPIPE:  # `| head` wants no more
                self._has_said = True
                with contextlib.suppress(OSError):
                    os.write(2, f"note: {self.name} is cut: {error.strerror}\n".encode())
            return memoryview(data).nbytes


def steady_text(file: str | int) -> io.TextIOWrapper:
    """A `SteadyFile` for text, which is appended to the file of a name."""
    is_name = isinstance(file, str)
    buffer = io.BufferedWriter(SteadyFile(file, "a" if is_name else "w", closefd=is_name))
    return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", line_buffering=True)


def steady_output() -> None:
    """Let output that is full or closed, as by `| head` or `>&-`, end no program. Idempotent."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened gets that number, and all output
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
        if number and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, steady_text(number))


def leave(*_: object) -> NoReturn:
    """Handle a signal that comes before there is anything to save: exit code 130."""
    print("\ninterrupted", file=sys.stderr)
    sys.exit(130)


def begin_program() -> None:
    """The first thing that a program does: from here on signals and closed output are handled."""
    steady_output()
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, leave)


def one_line(error: object) -> str:
    """A message of Hydra or OmegaConf without what follows it: links, search paths, types."""
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines()]
    skipped = ("See https://hydra.cc", "object_type=", "reference_type=")
    return " ".join(line for line in lines if line and not line.startswith(skipped))
