"""Single pictures of an evaluation's first images, for pages that show several runs side by side.

H W pixels.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KINDS = ("image", "truth", "prediction")
LONGEST = 640  # pixels of a picture's longer side
LONGEST_NAME = 120  # letters: file systems allow 255 bytes
QUALITY = 88  # of JPEG: names in the pictures stay legible


def save_gallery(
    names: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], folder: Path
) -> list[Path]:
    """Write `<name>_image.jpg`, `<name>_truth.jpg` and `<name>_prediction.jpg` of each row.

    Args:
        names: of the images, such as the stems of their files; one that comes again gets a number.
        rows: an image, its truth and its prediction, (H, W, 3) RGB, 0..255.
        folder: made when missing; pictures of an earlier evaluation are deleted.
    """
    clear_gallery(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, row in zip(_distinct(names), rows, strict=True):
        for kind, picture in zip(KINDS, row, strict=True):
            image = Image.fromarray(picture)
            image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            files.append(folder / f"{name}_{kind}.jpg")
            image.save(files[-1], quality=QUALITY)
    return files


def clear_gallery(folder: Path) -> None:
    """Delete the pictures of an earlier evaluation, and the folder if it held nothing else."""
    for kind in KINDS:
        for file in folder.glob(f"*_{kind}.jpg"):
            file.unlink()
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that files can have, each once."""
    found: list[str] = []
    for name in names:
        safe = wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:LONGEST_NAME]
        number = 1
        while wanted in found:
            number += 1
            wanted = f"{safe}-{number}"
        found.append(wanted)
    return found
