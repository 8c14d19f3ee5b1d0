"""A job for processes, which tests interrupt."""

import time
from pathlib import Path


def long(seconds, file):
    """A job that takes long, with a mark while it is under way."""
    end = time.monotonic() + seconds
    Path(file).touch()
    try:
        while time.monotonic() < end:
            time.sleep(0.01)
    finally:
        Path(file).unlink()
