"""Whole pictures or none: Pillow can be told, for all the program, to fill torn ones with grey."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ImageFile

PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum


def is_whole_png(file: Path) -> bool:
    """Whether a file ends as PNGs do; a torn one, or none at all, does not."""
    try:
        with file.open("rb") as opened:
            opened.seek(-len(PNG_END), os.SEEK_END)
            return opened.read() == PNG_END
    except OSError:  # not there, or shorter than that
        return False


_lock = threading.Lock()
_inside = 0  # threads that read just now
_before = False  # what the flag was when the first of them came


@contextmanager
def no_truncated_images() -> Iterator[None]:
    """Let Pillow raise OSError on a torn picture, whatever LOAD_TRUNCATED_IMAGES says outside.

    Threads may be inside at the same time: the first sets the flag, the last puts it back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = _before
