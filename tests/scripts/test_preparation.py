"""The command line that scripts/prepare_*.py share: how it ends."""

import errno
import signal
import sys

import pytest

from panoptic_dl.core.errors import DatasetError
from preparation import STOPPING, run_command


@pytest.fixture
def call(monkeypatch):
    """A function that runs the command line with a function to prepare or check."""
    before = {number: signal.getsignal(number) for number in STOPPING}

    def run(work, *arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", "ROOT", *arguments])
        run_command("", work, work, "coco")

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_prepares_with_workers_or_checks(call):
    calls = []

    def work(root, **options):
        calls.append((root, options))

    call(work, "--workers", "3")
    call(work, "--check")
    assert calls == [("ROOT", {"num_workers": 3}), ("ROOT", {})]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DatasetError("train2017 is missing"), "error: train2017 is missing", ""),
        (OSError(errno.ENOSPC, "No space left"), "Free some room and run the same command", ""),
        (KeyboardInterrupt(), "130", "the same command goes on from here"),
        (KeyboardInterrupt(signal.SIGTERM), "143", "the same command goes on from here"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(call, capsys, error, code, message):
    def work(root, **options):
        raise error

    with pytest.raises(SystemExit) as end:
        call(work)
    assert code in str(end.value.code)
    assert message in capsys.readouterr().err


def test_no_workers_are_refused(call, capsys):
    with pytest.raises(SystemExit) as end:
        call(print, "--workers", "0")
    assert end.value.code == 2
    assert "--workers must be at least 1" in capsys.readouterr().err
