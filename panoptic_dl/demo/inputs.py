"""What `input=` means: files, folders, patterns, videos, cameras; names of results.

Videos and cameras are read frame by frame, through OpenCV. H W pixels.
"""

import glob
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

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


FPS = 25.0  # of sources that do not say
TORN = 0.02  # share of the announced frames that may be missing: some formats only guess


class VideoReader:
    """Frames of a video file or a camera, one after the other."""

    def __init__(self, source: Path | int) -> None:
        """Open it, and decode the first frame; DemoError if there is none."""
        self.notes: list[str] = []  # for the log
        is_camera = isinstance(source, int)
        self._name = f"camera {source}" if is_camera else str(source)
        if isinstance(source, Path) and not source.is_file():
            raise DemoError(f"{source}: there is no such file")
        cv2.setLogLevel(0)  # its errors name lines of OpenCV
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # and FFmpeg's do no better
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        first = self._decode()
        if first is None:
            self._capture.release()
            if isinstance(source, int):
                raise DemoError(f"there is no camera {source}, or another program uses it")
            raise DemoError(
                f"{source}: OpenCV can decode no frame of it (damaged, cut off, or an unknown "
                f"codec); `ffmpeg -i {source.name} -c:v libx264 new.mp4` may help"
            )
        self._first: NDArray[np.uint8] | None = first
        self.size = first.shape[:2]
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))  # frames a second
        if not 0.1 <= self.fps <= 1000:
            self.notes.append(f"does not say its frame rate: {FPS:g} a second are taken")
            self.fps = FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # None: it does not know
        self.total = int(count) if 1 <= count < math.inf and not is_camera else None

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, (H, W, 3) RGB uint8 of one size for all; None at the end."""
        frame, self._first = self._decode() if self._first is None else self._first, None
        if frame is not None and frame.shape[:2] != self.size:
            raise DemoError(
                f"{self._name} changes its size from {self.size[1]} x {self.size[0]} to "
                f"{frame.shape[1]} x {frame.shape[0]}: cut it into two videos"
            )
        return frame

    def _decode(self) -> NDArray[np.uint8] | None:
        done, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if done else None  # type: ignore[return-value]

    def missing(self, read: int) -> str | None:
        """Why a video that ended after so many frames is not complete; None if it is."""
        if self.total is None or self.total - read <= max(1, TORN * self.total):
            return None
        return (
            f"{self._name} ends after {read} of {self.total} frames: it is cut off or damaged; "
            "what there is was drawn"
        )

    def close(self) -> None:
        self._capture.release()
