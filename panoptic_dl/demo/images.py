"""Pictures of any kind as the RGB images that networks were trained on.

What is done to a picture, besides decoding it, is said in a note. H W pixels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from panoptic_dl.image_files import no_truncated_images

from .errors import DemoError

DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits of a grey value that cameras and scanners have


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
    with _naming(str(file)), Image.open(file) as image:
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
        pixels, note = _grey_of_many_bits(np.asarray(image))
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
        notes.append("CMYK is converted without its colour profile")
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


def _grey_of_many_bits(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Grey values (H, W) as RGB, and what was done.

    Whole numbers from 0 are taken for those of a sensor: they are scaled by the smallest usual
    depth that holds them, so that a dark picture stays dark. Others have no natural white: the
    lowest becomes black and the highest white, but for those of 0..1, which keep their meaning.
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise DemoError("it holds grey values that are not finite: convert it to 8 bits")
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and np.issubdtype(values.dtype, np.integer):
        bits = next(depth for depth in DEPTHS if high < 2**depth)
        low, high = 0.0, 2.0**bits - 1
        note = f"grey values of {bits} bits are scaled to 8"
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        note = "grey values of 0..1 are scaled to 8 bits"
    else:
        note = f"grey values of {low:g}..{high:g} are scaled to 8 bits"
    scaled = (numbers - low) * (255 / max(high - low, 1e-300))
    grey = scaled.round().clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), note


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Say which file it is, and why it cannot be read, whatever Pillow raises."""
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
    # Pillow's decoders raise these, and worse, on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError) as error:
        raise DemoError(f"cannot read {file} (truncated or damaged: {error})") from error
    except (AttributeError, OverflowError, ArithmeticError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise DemoError(f"cannot read {file} (damaged or too large: {reason})") from error
