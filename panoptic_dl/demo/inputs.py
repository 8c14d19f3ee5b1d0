"""What `input=` means: files, folders, patterns, videos, cameras; each has a name for results."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DemoError
from .names import result_names

# Those that cannot be read here are among them: they are named, and not passed over in silence.
PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".avif"),
    *(".heic", ".heif"),
)
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv"),
    *(".3gp", ".mts", ".m2ts"),
)


@dataclass(frozen=True)
class Input:
    """One picture, video or camera.

    Attributes:
        source: a file, or the number of a camera.
        name: of its results, without a suffix; no two inputs share one.
    """

    source: Path | int
    name: str

    @property
    def is_video(self) -> bool:
        return isinstance(self.source, int) or self.source.suffix.lower() in VIDEOS

    def __str__(self) -> str:
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)


@dataclass(frozen=True)
class Found:
    """All inputs, and what was seen beside them."""

    inputs: list[Input]
    notes: list[str]  # for the log


def find_inputs(given: str | int | Sequence[str | int] | None) -> Found:
    """List the pictures, videos and cameras that are meant.

    A folder stands for the pictures and videos in it and below it, but for hidden ones; a pattern
    (`*`, `?`, `[ab]`, `**`) for all that it matches. A file given twice is taken once.

    Raises:
        DemoError: nothing is given or found; the message says what was looked for.
    """
    if given is None:
        raise DemoError(
            "mode=demo needs input=PATH: a picture, a video, a folder, a pattern such as "
            "'input=photos/*.jpg', a list such as 'input=[a.jpg,b.png]', or a camera, input=0"
        )
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    if not listed:
        raise DemoError("input=[] is empty: name at least one picture")
    sources: dict[object, Path | int] = {}
    others: Counter[str] = Counter()
    repeated = 0
    for one in listed:
        if isinstance(one, bool) or not isinstance(one, (str, int)):
            raise DemoError(f"input={one} is neither a path nor the number of a camera")
        found: Iterable[Path | int] = [one] if isinstance(one, int) else _files(one, others)
        for source in found:
            key = source if isinstance(source, int) else os.path.realpath(source)
            repeated += key in sources
            sources.setdefault(key, source)
    notes = []
    if repeated:
        notes.append(f"{repeated} inputs were given twice, and are taken once")
    if others:
        kinds = ", ".join(f"{many} {suffix or 'without suffix'}" for suffix, many in others.items())
        notes.append(f"Files that are neither pictures nor videos are left alone: {kinds}")
    names = result_names(
        [Path(f"camera{s}") if isinstance(s, int) else s for s in sources.values()]
    )
    return Found([Input(s, n) for s, n in zip(sources.values(), names, strict=True)], notes)


def _files(text: str, others: Counter[str]) -> list[Path]:
    if not text.strip():
        raise DemoError("input= is empty: name a picture, a folder, a video or a pattern")
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path, others)
    if path.exists():
        if not path.is_file():
            raise DemoError(f"input={text} is neither a file nor a folder")
        return [path]
    if not glob.has_magic(text):
        raise DemoError(f"input={text}: there is no such file or folder{_near(path)}")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [match for match in matches if match.is_file() and _kind(match, others)]
    inner = [match for match in matches if match.is_dir()]
    if "**" not in text:  # which has the folders' own files already
        for folder in inner:
            files += _inside(folder, others)
    if not files:
        seen = f": it matches {len(matches)} other files or folders" if matches else ""
        raise DemoError(f"input={text} matches no picture and no video{seen}")
    return files


def _of_folder(folder: Path, others: Counter[str]) -> list[Path]:
    files = _inside(folder, others)
    if not files:
        many = sum(others.values())
        what = f"none of its {many} files is a picture or video" if many else "it is empty"
        raise DemoError(
            f"input={folder}: {what}; looked for {', '.join(PICTURES[:5])} ... and "
            f"{', '.join(VIDEOS[:3])} ..., also in the folders in it"
        )
    return files


def _inside(folder: Path, others: Counter[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DemoError(f"input={folder}: cannot list {error.filename}: {error.strerror}")

    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(parent, name)
            if not name.startswith(".") and _kind(file, others):
                files.append(file)
    return files


def _kind(file: Path, others: Counter[str]) -> bool:
    suffix = file.suffix.lower()
    if suffix in PICTURES or suffix in VIDEOS:
        return True
    others[suffix] += 1
    return False


def _near(path: Path) -> str:
    """Names beside a missing file that resemble its own."""
    parent = path.parent
    if not parent.is_dir():
        return f" (nor a folder {parent})"
    near = difflib.get_close_matches(path.name, os.listdir(parent), n=3)
    return f"; in {parent} there is {', '.join(near)}" if near else ""
