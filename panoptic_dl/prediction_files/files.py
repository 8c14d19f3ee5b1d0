"""Files that are there whole or not at all, and errors that name them.

Shapes: H W pixels.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_dl.evaluation.figures import EvaluationError

TEMPORARY = ".tmp"


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Name the file when the disk refuses it.

    Raises:
        EvaluationError: what is inside raised OSError: the disk is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"cannot write {file} ({error.strerror or error}); make room there, or save "
            "predictions in another folder"
        ) from error


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary file beside `file`, which takes its name when nothing goes wrong.

    Its name begins with a dot, so that no script's pattern finds it.

    Raises:
        EvaluationError: the disk refuses it.
    """
    # Of this process: another that predicts the same image must not take it for its own.
    temporary = file.with_name(f".{file.name}.{os.getpid()}{TEMPORARY}")
    with writing(file):
        try:
            yield temporary
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_png(file: Path, pixels: np.ndarray) -> None:
    """Write a picture, (H, W) or (H, W, 3) uint8.

    Raises:
        EvaluationError: the disk refuses it.
    """
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    with whole(file) as temporary:
        temporary.write_bytes(buffer.getvalue())


def write_text(file: Path, text: str) -> None:
    """Write a small text.

    Raises:
        EvaluationError: the disk refuses it.
    """
    with whole(file) as temporary:
        temporary.write_text(text)


def inside(root: Path, base: Path, name: str, source: Path) -> Path:
    """The file that `name` in `source` means.

    Args:
        root: folder that must hold the file.
        base: folder that the name is relative to.
        name: what is written.
        source: the file it is written in, for messages.

    Raises:
        EvaluationError: it lies outside, so that a downloaded file could make us read any other.
    """
    file = Path(os.path.normpath(base.absolute() / name))
    if os.path.isabs(name) or not file.is_relative_to(os.path.normpath(root.absolute())):
        raise EvaluationError(
            f"{source} names the file {name}, which is not inside {root}: write names relative to "
            "the folder of that file"
        )
    return file
