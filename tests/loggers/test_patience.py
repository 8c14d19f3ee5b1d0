"""Calls that hang are waited for only so long."""

import time

import pytest

from panoptic_dl.loggers.base import NotInTime, Patience


def test_results_and_errors_come_back():
    patience = Patience("test")
    assert patience(lambda: 3, 5, "counting") == 3
    with pytest.raises(KeyError):
        patience(lambda: {}[1], 5, "looking")
    with pytest.raises(TimeoutError, match="theirs"):  # and not ours
        patience(raising(TimeoutError("theirs")), 5, "waiting")
    with pytest.raises(RuntimeError, match="SystemExit: 3"):  # which would end a run
        patience(raising(SystemExit(3)), 5, "leaving")
    assert patience(lambda: 4, 5, "counting") == 4
    patience.end()


def raising(error):
    def call():
        raise error

    return call


def test_the_first_that_hangs_is_the_last():
    patience = Patience("test")
    started = time.perf_counter()
    with pytest.raises(NotInTime, match=r"sleeping took longer than 0.1 s"):
        patience(lambda: time.sleep(3), 0.1, "sleeping")
    with pytest.raises(NotInTime, match="sleeping"):
        patience(lambda: 3, 100, "counting")
    assert time.perf_counter() - started < 1
