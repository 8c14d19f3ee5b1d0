"""What all tests share: one thread each, for processes starve each other, and a log to be heard."""

import logging
import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses

# Where a shell starts the tests in the background SIGINT is ignored; children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def log_is_heard(monkeypatch):
    """Runs inside a test process keep their log to themselves; later tests listen to it again."""
    monkeypatch.setattr(logging.getLogger("panoptic_dl"), "propagate", True)
