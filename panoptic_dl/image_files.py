"""Whole pictures or none: Pillow can be told, for all the program, to fill torn ones with grey."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

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
