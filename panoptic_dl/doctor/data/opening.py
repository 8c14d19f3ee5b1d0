"""Open an image or a label: every byte of it, in the colours that it is stored in."""

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image

from panoptic_dl.image_files import no_truncated_images

from .report import ImageReport

ORIENTATION = 274  # tag of EXIF: how a camera was held; 1: upright
ROTATED = (5, 6, 7, 8)  # values that swap height and width
LOSSY = ("JPEG", "JPEG2000", "WEBP", "MPO", "AVIF")
USUAL = ("RGB", "L")
CONVERTED = ("RGBA", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La")


def open_whole(file: str, *, keep_digest: ImageReport | None = None) -> Image.Image:
    """Read and decode a file, once.

    Args:
        keep_digest: gets the digest of the file's bytes.

    Raises:
        OSError, SyntaxError, ValueError: it is missing, truncated or no image; or others of
            Pillow's many ways to say so.
    """
    data = Path(file).read_bytes()
    if keep_digest is not None:
        keep_digest.digest = digest_of(data)
    with warnings.catch_warnings(), no_truncated_images():
        warnings.simplefilter("ignore")  # of large images, and of odd EXIF entries
        image = Image.open(io.BytesIO(data))
        image.load()
    return image


def digest_of(data: bytes) -> bytes:
    """The same for the same bytes, and, as good as certainly, for these alone."""
    return hashlib.blake2b(data, digest_size=16).digest()


def why_not(error: Exception) -> str:
    """What keeps a file from being read."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return str(error.strerror)
    text = str(error).replace("<_io.BytesIO object at 0x", "").strip() or type(error).__name__
    if "cannot identify image file" in text:
        text = "no image that Pillow knows"
    return f"truncated or damaged: {text}"


def look_at_image(file: str, report: ImageReport) -> tuple[int, int] | None:
    """Note what is wrong with an image; return (H, W) as training sees it, None if unreadable."""
    try:
        image = open_whole(file, keep_digest=report)
    except Exception as error:
        report.add("images", f"{file}: {why_not(error)}")
        return None
    report.mode = image.mode
    if image.mode in CONVERTED:
        report.add("image modes", f"{file}: {image.mode}, converted to RGB", serious=False)
    elif image.mode not in USUAL:
        report.add("image modes", f"{file}: {image.mode}, whose values are cut off at 255 in RGB")
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF, which Detectron2 does not mind either
        turn = 1
    if turn in range(2, 9):
        report.add(
            "orientation",
            f"{file}: EXIF orientation {turn}: images are turned when read, labels are not",
            serious=False,
        )
    height, width = image.height, image.width
    return (width, height) if turn in ROTATED else (height, width)
