"""A signal that stops a run does what Ctrl-C does, where there is nothing to save."""

import os
import signal

import pytest

from panoptic_dl.launch.signals import STOPPING, interruptible


@pytest.fixture(autouse=True)
def ctrl_c_as_in_a_terminal():
    """What a shell starts in the background ignores SIGINT, and so would these tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_interrupts_once(number):
    before = {each: signal.getsignal(each) for each in STOPPING}
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # another of the same wish, while the run ends
    assert {each: signal.getsignal(each) for each in STOPPING} == before


def test_a_second_ctrl_c_interrupts_again():
    with interruptible():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_a_handler_of_somebody_else_stays():
    heard = []
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert heard == [signal.SIGUSR2]
