"""Which file it was: the official scripts raise what Pillow raises, which names none."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.image_files import no_truncated_images


def unreadable(files: Iterable[Path], error: Exception) -> EvaluationError:
    """The error for a script that stopped at `error`; names the first of `files` that is broken."""
    broken = next((str(file) for file in files if not _is_readable(file)), "a label")
    return EvaluationError(
        f"cannot read {broken} ({error}); unpack or prepare this file again, then evaluate again"
    )


def _is_readable(file: Path) -> bool:
    try:
        with no_truncated_images(), Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError):  # Pillow raises both on damaged files
        return False
    return True
