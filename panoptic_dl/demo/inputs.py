"""What `input=` means: files, folders, patterns, videos, cameras; names of results; read pictures.

H W pixels.
"""

import difflib
import glob
import os
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.images import no_truncated_images

LONGEST_NAME = 120  # characters; 255 bytes are the most that disks take, with suffixes
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits of a gray value that cameras and scanners have
# Those that cannot be read here are among them: they are named, and not passed over in silence.
_SUFFIXES_OF_PICTURES = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .tga "
    ".jp2 .j2k .avif .heic .heif"
)
_SUFFIXES_OF_VIDEOS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ogv .3gp .mts .m2ts"
PICTURES, VIDEOS = _SUFFIXES_OF_PICTURES.split(), _SUFFIXES_OF_VIDEOS.split()


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


def find_inputs(given: str | int | Sequence[str | int] | None) -> tuple[list[Input], list[str]]:
    """List the pictures, videos and cameras that are meant.

    A folder stands for the pictures and videos in it and below it, but for hidden ones; a pattern
    (`*`, `?`, `[ab]`, `**`) for all that it matches. A file given twice is taken once.

    Returns:
        The inputs, and notes for the log.

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
    return [Input(s, n) for s, n in zip(sources.values(), names, strict=True)], notes


def _files(text: str, others: Counter[str]) -> list[Path]:
    if not text.strip():
        raise DemoError("input= is empty: name a picture, a folder, a video or a pattern")
    path = Path(text).expanduser()
    if path.is_dir():
        files = _inside(path, others)
        if not files:
            n = sum(others.values())
            reason = f"none of its {n} files is a picture or video" if n else "it is empty"
            raise DemoError(
                f"input={path}: {reason}; looked for {', '.join(PICTURES[:5])} ... and "
                f"{', '.join(VIDEOS[:3])} ..., also in the folders in it"
            )
        return files
    if path.exists():
        if not path.is_file():
            raise DemoError(f"input={text} is neither a file nor a folder")
        return [path]
    if not glob.has_magic(text):
        raise DemoError(f"input={text}: there is no such file or folder{_near(path)}")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [match for match in matches if match.is_file() and _kind(match, others)]
    if "**" not in text:  # which has the folders' own files already
        for folder in filter(Path.is_dir, matches):
            files += _inside(folder, others)
    if not files:
        seen = f": it matches {len(matches)} other files or folders" if matches else ""
        raise DemoError(f"input={text} matches no picture and no video{seen}")
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


def result_names(files: Sequence[Path]) -> list[str]:
    """A name for each of several different files, safe as that of a file, in their order.

    `x` for x.jpg; `x_jpg` and `x_png` where x.jpg and x.png come together; `a_x` and `b_x` where
    a/x.jpg and b/x.jpg do; a number where nothing else helps.
    """
    names = [_safe(file.stem) for file in files]
    _spell_out(names, [_safe(file.name.replace(".", "_")) for file in files])
    deepest = max((len(file.parts) for file in files), default=0)
    for depth in range(2, min(deepest, 6) + 1):
        folders = [[part for part in f.parts[-depth:-1] if part.strip("/.\\")] for f in files]
        longer = [
            _safe("_".join([*parts, f.stem])) for parts, f in zip(folders, files, strict=True)
        ]
        _spell_out(names, longer)
    # Number those that still share a name; an input keeps its own before others get it.
    final = list(names)
    taken: set[str] = set()
    for i in sorted(range(len(names)), key=lambda i: names[i] != _safe(files[i].stem)):
        number = 1
        while _key(final[i]) in taken:
            number += 1
            final[i] = f"{names[i]}_{number}"
        taken.add(_key(final[i]))
    return final


def _spell_out(names: list[str], longer: Sequence[str]) -> None:
    """Give those that share a name their longer ones, where these tell them apart."""
    groups = defaultdict(list)
    for position, name in enumerate(names):
        groups[_key(name)].append(position)
    for members in groups.values():
        if len(members) > 1 and len({_key(longer[i]) for i in members}) > 1:
            for i in members:
                names[i] = longer[i]


def _key(name: str) -> str:
    """What disks may take for the same name has the same key."""
    return unicodedata.normalize("NFKC", name).casefold()


def _safe(name: str) -> str:
    """A text as a name: no separators, nothing that cannot be printed, not too long."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    kept = kept[-LONGEST_NAME:].strip(" .")
    while len(kept.encode()) > 2 * LONGEST_NAME:
        kept = kept[1:]
    return kept or "unnamed"


@dataclass(frozen=True)
class Picture:
    """An image as networks take it.

    Attributes:
        pixels: (H, W, 3) RGB uint8, upright.
        notes: what was done to it, in words; mostly nothing.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_picture(file: str | Path) -> Picture:
    """Read a whole picture of any kind that Pillow knows.

    Raises:
        DemoError: there is none, or it is damaged, or too large for Pillow's guard; names the file.
    """
    with _errors_name(str(file)), Image.open(file) as image:
        return from_pillow(image)


def from_pillow(image: Image.Image) -> Picture:
    """Convert a picture of any mode: first frame, upright, opaque, 8 bits, three channels."""
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # there the others are previews of the first
        image.seek(0)
        notes.append(f"the first of {frames} frames or pages is taken")
    with no_truncated_images():
        image.load()
    if image.getexif().get(0x0112, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes.append("turned as its EXIF says")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        pixels, note = _gray_of_many_bits(np.asarray(image))
        return Picture(pixels, (*notes, note))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        if opaque.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, opaque)
            notes.append("transparent parts are seen over white")
        else:
            image = opaque
    elif image.mode == "CMYK":
        notes.append("CMYK is converted without its color profile")
    return Picture(np.array(image.convert("RGB")), tuple(notes))


def from_array(array: NDArray[np.generic]) -> Picture:
    """Check an image of the Python interface.

    Raises:
        DemoError: it is not (H, W, 3) uint8, or empty.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DemoError(
            f"an array of shape {array.shape} and type {array.dtype} is no image: give (H, W, 3) "
            "RGB uint8, or a PIL image or a path, which may be of any kind"
        )
    return Picture(np.ascontiguousarray(array))  # type: ignore[arg-type]


def _gray_of_many_bits(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Gray values (H, W) as RGB, and a note on what was done.

    Whole numbers from 0 are taken for those of a sensor: they are scaled by the smallest usual
    depth that holds them, so that a dark picture stays dark. Others have no natural white: the
    lowest becomes black and the highest white, but for those of 0..1, which keep their meaning.
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise DemoError("it holds gray values that are not finite: convert it to 8 bits")
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and np.issubdtype(values.dtype, np.integer):
        bits = next(depth for depth in DEPTHS if high < 2**depth)
        low, high = 0.0, 2.0**bits - 1
        note = f"gray values of {bits} bits are scaled to 8"
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        note = "gray values of 0..1 are scaled to 8 bits"
    else:
        note = f"gray values of {low:g}..{high:g} are scaled to 8 bits"
    scaled = (numbers - low) * (255 / max(high - low, 1e-300))
    gray = scaled.round().clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), note


@contextmanager
def _errors_name(file: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a DemoError that names the file."""
    try:
        with warnings.catch_warnings():
            # Large pictures are what people have; damaged ones are errors here.
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise DemoError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise DemoError(f"{file} is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise DemoError(
            f"{file} is no picture that Pillow can read (empty, damaged, text, or of another "
            "format): convert it to PNG or JPEG"
        ) from None
    except Image.DecompressionBombError:
        raise DemoError(
            f"{file} has more pixels than Pillow's guard against bombs lets pass "
            f"({2 * (Image.MAX_IMAGE_PIXELS or 0):,}): make it smaller"
        ) from None
    except DemoError as error:
        raise DemoError(f"{file}: {error}") from error
    except Exception as error:  # Pillow's decoders raise nearly all kinds on damaged files
        reason = str(error) or type(error).__name__
        raise DemoError(f"cannot read {file} (truncated or damaged: {reason})") from error
