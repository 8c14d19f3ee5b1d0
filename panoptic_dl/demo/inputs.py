"""What `input=` means: files, folders, patterns, videos, cameras; names of results."""

import glob
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import file_name_text, local_path, near_names, printable

logger = logging.getLogger(__name__)

# Those that cannot be read here are among them: they are named, and not passed over in silence.
_SUFFIXES_OF_PICTURES = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .tga "
    ".jp2 .j2k .avif .heic .heif"
)
_SUFFIXES_OF_VIDEOS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ogv .3gp .mts .m2ts"
PICTURES, VIDEOS = _SUFFIXES_OF_PICTURES.split(), _SUFFIXES_OF_VIDEOS.split()
KNOWN = {*PICTURES, *VIDEOS}


@dataclass(frozen=True)
class Input:
    """One picture, video or camera."""

    source: Path | int  # a file, or the number of a camera
    name: str  # of its results, without a suffix; no two inputs share one

    @property
    def is_video(self) -> bool:
        return isinstance(self.source, int) or self.source.suffix.lower() in VIDEOS

    def __str__(self) -> str:
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)


def common_folder(inputs: Iterable[Input]) -> Path:
    """The deepest folder that holds all files among the inputs."""
    folders = [os.path.abspath(one.source.parent) for one in inputs if isinstance(one.source, Path)]
    return Path(os.path.commonpath(folders or [os.curdir]))


def find_inputs(given: str | int | Sequence[str | int] | None) -> list[Input]:
    """List the pictures, videos and cameras that are meant; log what is left out or renamed.

    A folder stands for the pictures and videos in it and below it, but for hidden ones; a pattern
    (`*`, `?`, `[ab]`, `**`) for all that it matches. A file given twice is taken once. DemoError:
    nothing is given or found; the message says what was looked for.
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
    if repeated:
        logger.info("%d inputs were given twice, and are taken once", repeated)
    if others:
        kinds = ", ".join(f"{many} {suffix or 'without suffix'}" for suffix, many in others.items())
        logger.info("Files that are neither pictures nor videos are left alone: %s", kinds)
    names = _result_names(
        [Path(f"camera{s}") if isinstance(s, int) else s for s in sources.values()]
    )
    inputs = [Input(s, n) for s, n in zip(sources.values(), names, strict=True)]
    for one in inputs:
        if isinstance(one.source, Path) and one.name != one.source.stem:
            logger.info("Results of %s are called %s", printable(str(one), 4096), one.name)
    return inputs


def _files(text: str, others: Counter[str]) -> list[Path]:
    """The files that a text means; suffixes of other files are counted in `others`."""
    if not text.strip():
        raise DemoError("input= is empty: name a picture, a folder, a video or a pattern")
    path = local_path(text, "input")
    if path.is_file():
        return [path]
    if path.exists():
        if not path.is_dir():
            raise DemoError(f"input={text} is neither a file nor a folder")
        matches = [path]
    elif glob.has_magic(text):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    else:
        near = near_names(path.parent, path.name)
        if not path.parent.is_dir():
            near = f" (nor a folder {path.parent})"
        raise DemoError(f"input={text}: there is no such file or folder{near}")
    files = [match for match in matches if match.is_file()]
    if "**" not in text:  # which has the folders' own files already
        files += [file for folder in filter(Path.is_dir, matches) for file in _inside(folder)]
    known = [file for file in files if file.suffix.lower() in KNOWN]
    if not known:
        raise DemoError(
            f"input={text}: no picture and no video in {len(files)} files; looked for "
            f"{', '.join(PICTURES[:5])} ... and {', '.join(VIDEOS[:3])} ..., also in folders"
        )
    others.update(file.suffix.lower() for file in files if file.suffix.lower() not in KNOWN)
    return known


def _inside(folder: Path) -> Iterator[Path]:
    """Files in a folder and below it, but for hidden ones."""

    def refuse(error: OSError) -> None:
        raise DemoError(f"input={folder}: cannot list {error.filename}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _result_names(files: Sequence[Path]) -> list[str]:
    """A name for each of several different files, safe as that of a file, in their order.

    `x` of x.jpg; where another one has that, `a_x` with the folders that not all lie in; then
    `a_x_jpg`; a number where nothing else helps.
    """
    places = [os.path.abspath(file) for file in files]
    base = os.path.commonpath([os.path.dirname(place) for place in places] or [os.curdir])
    inside = [Path(os.path.relpath(place, base)) for place in places]
    spellings = [
        [file.stem for file in files],
        ["_".join(path.with_suffix("").parts) for path in inside],
        ["_".join(path.parts).replace(".", "_") for path in inside],
    ]
    safe = [[file_name_text(name) for name in spelling] for spelling in spellings]
    counts = [Counter(map(_key, spelling)) for spelling in safe]
    found, taken = list[str](), set[str]()
    for names in zip(*safe, strict=True):
        alone = (n for n, count in zip(names, counts, strict=True) if count[_key(n)] == 1)
        name = wanted = next(alone, names[-1])
        number = 1
        while _key(name) in taken or (number > 1 and any(_key(name) in each for each in counts)):
            number += 1
            name = f"{wanted}_{number}"
        taken.add(_key(name))
        found.append(name)
    return found


def _key(name: str) -> str:
    """What disks may take for the same name has the same key."""
    return unicodedata.normalize("NFKC", name).casefold()
