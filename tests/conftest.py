"""What all tests share: one thread each, for processes starve each other, and a log to be heard."""

import gc
import logging
import os
import signal
import sys

import pytest

# Without bytecode, as in many containers, each of the processes would compile PyTorch for itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses

# A shell's background ignores SIGINT, and nohup SIGHUP; children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Tests of processes first: they fork, which PyTorch allows before its first backward only."""
    items.sort(key=lambda item: "processes" not in item.path.parts)


def pytest_collection_finish():
    """What is imported stays: a quarter of a composition's time went into looking at it again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is left in the home folder: of no test, and of no process that one starts."""
    os.environ["PANOPTIC_DL_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(autouse=True)
def log_is_heard(monkeypatch):
    """Runs inside a test process keep their log to themselves; later tests listen to it again.

    The handlers that a run has left behind write to a stream that pytest has closed since.
    """
    logger = logging.getLogger("panoptic_dl")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Overrides that make a toy dataset small, in a cache that the whole session shares."""
    # One for all xdist workers: the generator is safe against several at once.
    cache = tmp_path_factory.getbasetemp().parent / "toy"
    numbers = ["dataset.root.num_train=4", "dataset.root.num_val=2", f"dataset.root.root={cache}"]
    sizes = {"toy_cityscapes": "[128,256]", "toy_coco": "[96,128]"}
    return {
        name: [f"dataset={name}", *numbers, f"dataset.root.size={size}"]
        for name, size in sizes.items()
    }
