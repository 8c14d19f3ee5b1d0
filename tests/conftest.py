"""One thread for each test process: pytest runs two, and spinning threads starve others. Logs."""

import logging
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses


@pytest.fixture(autouse=True)
def log_is_heard(monkeypatch):
    """Runs inside a test process keep their log to themselves; later tests listen to it again."""
    monkeypatch.setattr(logging.getLogger("panoptic_dl"), "propagate", True)
