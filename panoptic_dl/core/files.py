"""Files that are written completely or not at all, locks; JSON read from files, text made safe."""

import argparse
import difflib
import errno
import fcntl
import hashlib
import json
import logging
import os
import pwd
import re
import stat
import tempfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, cast

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
# Of conf/, lazy_configs/ and scripts/: the checkout, or the package itself, where a wheel has them.
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
PROGRAM = "panoptic-dl" if ROOT == PACKAGE else "python run.py"  # as people start it

LOCK = ".lock"  # held while a process trains in a folder
RUN_LOCK = ".run.lock"  # held as long as the process that started a run lives
_URL = re.compile(r"\w[\w+.-]+:/")  # Path("s3://a") is s3:/a; one letter is a drive of Windows
_TEMPORARY = re.compile(r"\.unfinished\.\d+\.(.+)")


def local_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """A path that somebody has typed: `~` stands for the home folder.

    It is also the `type` of arguments of scripts.

    Args:
        path: of a file or folder, to read or to write.
        name: the key or argument that it was given by, for the message.

    Raises:
        NotLocalError: (a ValueError) it is a URL, or nothing.
    """
    text = os.fspath(path)
    if not text:
        raise NotLocalError(f"{name}= is empty, and has to be a path: {name}=. is this folder")
    if _URL.match(text):
        raise NotLocalError(
            f"{name}={printable(text)} is a URL, and has to be a path on this machine: copy what "
            "is there, or mount it, and give its path"
        )
    return Path(os.path.expanduser(text))


def script_command(name: str) -> str:
    """What people type for `scripts/<name>.py`."""
    if ROOT == PACKAGE:
        return f"{PROGRAM} {name.replace('_', '-')}"
    return f"python scripts/{name}.py"


def cache_folder() -> Path:
    """Where is kept what makes later runs faster: $PANOPTIC_DL_CACHE, or ~/.cache/panoptic-dl."""
    folder = os.environ.get("PANOPTIC_DL_CACHE") or "~/.cache/panoptic-dl"
    return local_path(folder, "PANOPTIC_DL_CACHE")


def ensure_home() -> None:
    """Give this process a home folder and a user name where it has none: `docker run --user 12345`.

    Libraries take both for granted (W&B, caches of PyTorch), and `~` would be a folder's own name.
    """
    user, home = os.getuid(), os.path.expanduser("~")
    try:
        pwd.getpwuid(user)
    except KeyError:
        os.environ.setdefault("USER", f"user{user}")
        if not os.access(home, os.W_OK):  # "~", or / in a container
            place = Path(tempfile.gettempdir(), f"panoptic-dl-{user}")
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)
            owned = place.stat().st_uid == user
            os.environ["HOME"] = str(place) if owned else tempfile.mkdtemp(prefix="panoptic-dl-")


class NotLocalError(argparse.ArgumentTypeError, ValueError):
    """A URL, or nothing, in the place of a path."""


@contextmanager
def atomic_write(target: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path in the folder of `target`, and rename it to `target` at the end.

    After an error the temporary file is removed, and a file named `target` is as it was.

    Args:
        sync: flush the file and its folder to the disk, so that both survive a power cut. Without
            it, thousands of small files are written faster.
    """
    temporary = temporary_path(target)
    try:
        yield temporary
        if sync:
            flush(temporary)
        temporary.replace(target)
        if sync:
            flush(target.parent)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # none, of a full disk
            error.filename = str(target)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_path(target: Path) -> Path:
    """A hidden path in the folder of `target`, of this thread alone, with the same suffix."""
    return target.with_name(f".unfinished.{threading.get_native_id()}.{target.name}")


def temporary_of(name: str) -> str | None:
    """The file name that a temporary file `name` stands for; None if it is not temporary."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def remove_temporary_files(folder: Path, *, recursive: bool = False) -> None:
    """Delete what killed processes left of `atomic_write`; no other process may be writing."""
    for file in folder.rglob("*") if recursive else folder.glob("*"):
        if temporary_of(file.name) is not None:
            file.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Replace a text file atomically.

    Raises:
        OSError: the disk is full; the file is as it was.
    """
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_state(target: Path, state: dict[str, Any]) -> str:
    """`torch.save` atomically, after reading the file back; return its SHA-256.

    Raises:
        OSError: the disk is full, or what was written does not read back; nothing changed.
    """
    import torch  # takes seconds, and small files do without

    with atomic_write(target) as temporary:
        with temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of torch, which hides the error of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        flush(temporary)
        # torch writes a checksum of each part
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(temporary) as archive:
            if archive.testzip() is None:
                return sha256_of(temporary)
        raise OSError("what was written does not read back")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def near_names(folder: str | Path, name: str, *, deep: bool = False) -> str:
    """Say in an error that a file or folder is missing which one was probably meant.

    Args:
        folder: where it is looked for; it need not exist.
        name: of what is missing, relative to the folder.
        deep: look into the folders in it, too.

    Returns:
        What has the same name but for case, Unicode form, and either the extension or the folder
        that it lies in: "; there is img/a.JPG". Else, unless it is `deep`, the most similar names
        in the folder; "" without any.
    """
    wanted = PurePosixPath(name.replace("\\", "/"))
    found: list[tuple[bool, str]] = []
    for place, folders, files in os.walk(folder):
        for each in (*folders, *files):
            path = PurePosixPath(os.path.relpath(os.path.join(place, each), folder))
            if _alike(path.stem) == _alike(wanted.stem) and str(path) != name:
                other_suffix = _alike(path.suffix) != _alike(wanted.suffix)
                other_folder = _alike(str(path.parent)) != _alike(str(wanted.parent))
                if not (other_suffix and other_folder):
                    found.append((other_suffix or other_folder, str(path)))
        if not deep:
            break
    if found:
        _, there = min(found)
        looks_same = unicodedata.normalize("NFC", there) == unicodedata.normalize("NFC", name)
        how = " (another Unicode form: NFC or NFD)" if looks_same else ""
        return f"; there is {Path(folder) / there}{how}"
    similar: list[str] = []
    if not deep and os.path.isdir(folder):  # names of a dataset's images all resemble each other
        others = [each for each in os.listdir(folder) if each != name]
        similar = difflib.get_close_matches(name, others, n=3)
    return f"; in {folder} there is {', '.join(similar)}" if similar else ""


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


_locks: set[int] = set()  # descriptors of the locks that this process holds


def acquire_lock(path: Path, *, wait: bool = False, shared: bool = False) -> int | None:
    """Lock a file, which is created if missing, or a folder, against other processes.

    The lock is held until `release_lock`, or until this process ends, however it ends. Forked
    processes, such as loader workers, do not hold it.

    Args:
        wait: until no other process holds the lock.
        shared: with processes that share it, too; the file must exist.

    Returns:
        A descriptor for `release_lock`; None where the disk has no locks.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDONLY if shared or path.is_dir() else os.O_RDWR | os.O_CREAT
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise
            return None
        with suppress(FileNotFoundError):
            if shared or os.path.samestat(os.stat(path), os.fstat(descriptor)):
                break
        os.close(descriptor)  # of a file that its holder has just removed
    _locks.add(descriptor)
    return descriptor


def release_lock(descriptor: int | None, remove: Path | None = None) -> None:
    """Give up what `acquire_lock` returned, and remove its file."""
    if descriptor is not None:
        if remove is not None:
            with suppress(OSError):
                remove.unlink()
        _locks.discard(descriptor)
        os.close(descriptor)


@contextmanager
def file_lock(path: Path) -> Iterator[int | None]:
    """Wait for a lock, and hold it inside a `with` block; gives its descriptor, or None."""
    descriptor = acquire_lock(path, wait=True)
    try:
        yield descriptor
    finally:
        release_lock(descriptor)


def _close_inherited_locks() -> None:
    """In a forked process: a lock of flock(2) lasts until all its descriptors are closed."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_inherited_locks)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        # Shared with others that ask, and for an instant: `folder_lock` tries more than once.
        release_lock(acquire_lock(path, shared=True))
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


@contextmanager
def folder_lock(folder: Path, name: str = LOCK, key: str = "run_dir") -> Iterator[None]:
    """Keep other processes that lock the same name out of a folder.

    Args:
        name: file name of the lock.
        key: config key that names the folder, for the message.

    Raises:
        ValueError: another process holds the lock.
        OSError: the folder cannot be written to.
    """
    path = folder / name
    is_new = not path.exists()
    for seconds in (0.02, 0.04, 0.08, 0.0):
        try:
            lock = acquire_lock(path)
            break
        except BlockingIOError:
            time.sleep(seconds)
    else:
        raise ValueError(
            f"{folder} is in use by another process: wait for that run, end it, or name another "
            f"{key}"
        )
    if lock is None:
        logger.warning("This disk has no locks: never start two runs in %s", folder)
    try:
        yield
    finally:
        release_lock(lock, remove=path if is_new else None)


def require_file(path: str | Path) -> None:
    """Raise OSError for a named pipe, a socket or a device, which a reader might wait for."""
    kinds = {"p": "a named pipe", "s": "a socket", "c": "a device", "b": "a device"}
    kind = kinds.get(stat.filemode(os.stat(path).st_mode)[0])
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, and has to be a file", str(path))


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is no complete JSON file; the message names it.
        OSError: it cannot be opened.
    """
    require_file(file)
    return parse_json(file.read_bytes(), file.name)


def read_text(file: Path) -> str:
    """Read a text file that a run has left; OSError where it cannot be opened, or is none."""
    require_file(file)
    return file.read_text("utf-8", "replace")


def parse_json(content: str | bytes, name: str) -> Any:
    """Parse JSON; `name` is that of its file, or of the file that it is a line of.

    Raises:
        ValueError: it is torn, or nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        what = f"is no whole JSON file ({error})" if content else "is empty"
        raise ValueError(f"{name} {what}") from None


def read_json_object(file: Path) -> dict[str, Any]:
    """Read the JSON object that a run has left; its texts can be encoded again.

    Raises:
        ValueError: it is no complete JSON file, or no object.
        OSError: it cannot be opened.
    """
    data = read_json(file)
    if not isinstance(data, dict):
        raise ValueError(f"{file.name} holds a {type(data).__name__} in place of an object")
    return cast(dict[str, Any], json.loads(visible(json.dumps(data, ensure_ascii=False))))


def printable(value: Any, longest: int = 200) -> str:
    """A value from a file as text for a terminal: control characters become "?", long ones are cut.

    Containers are named by their type: their contents may be too large, or nested too deeply.
    """
    if value is None or type(value) in (bool, int, float):
        # Not an int of a million digits: writing it takes minutes, or is an error of Python.
        if type(value) is int and value.bit_length() > 256:
            return "a very large number"
        return str(value)
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = re.sub("[\t\n]", "?", visible(value[:longest]))
    return text + ("..." if len(value) > longest else "")


# Control characters, line ends, marks that turn the order of letters around, halves of an emoji.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LATEX = {letter: f"\\{letter}" for letter in "&%$#{}"}
_LATEX |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_LATEX |= {"<": "\\textless{}", ">": "\\textgreater{}", "±": "$\\pm$", "·": "$\\cdot$"}
_LATEX |= {"_": "\\_\\allowbreak{}", "/": "/\\allowbreak{}", "=": "=\\allowbreak{}"}
_LONGEST_NAME = 120  # letters of a file's name: disks take 255 bytes


def visible(text: str) -> str:
    """Text of several lines for a terminal, a log or a page: what is none to read becomes "?"."""
    return _UNSAFE.sub("?", text)


def table_cell(value: object) -> str:
    """A value for a cell of a Markdown table, which is also read as it is, on a terminal."""
    return re.sub(r"(?<!\\)([|<])", r"\\\1", visible(" ".join(str(value).split())))


def markdown_text(text: str) -> str:
    """Text that Markdown leaves alone, also within a table."""
    edges = r"([\\`*\[\]<>|#]|(?<!\w)_|_(?!\w))"  # within a word _ is no sign
    return re.sub(edges, r"\\\1", visible(" ".join(text.split())))


def csv_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, in one line."""
    text = printable(text, len(text))
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, and breaks where names of settings and folders can be."""
    return "".join(_LATEX.get(letter, letter) for letter in visible(" ".join(text.split())))


def file_name_text(name: str) -> str:
    """Text as the name of a file on any system: no separators, nothing that controls, the end."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    kept = kept[-_LONGEST_NAME:].strip(" .")
    while len(kept.encode()) > 2 * _LONGEST_NAME:
        kept = kept[1:]
    return kept or "unnamed"
