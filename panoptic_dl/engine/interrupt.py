"""Ctrl-C and the signals of job managers end a run after the step under way, with a checkpoint."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from detectron2.engine import HookBase

from .signals import STOPPING

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Stopped on request with nothing lost: the same run goes on from its last checkpoint.

    `signal` is the number of the signal that asked for it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopRequest:
    """Listens for signals from `listen` to its end. A second Ctrl-C stops at once, unsaved.

    Loader workers are forked while this listens and inherit the handlers: signals that are sent to
    all processes of a run do not kill them.
    """

    def __init__(self) -> None:
        self.signal = 0  # the first that came
        self._at_once = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals over, in the main thread; afterwards they are whose they were."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous: dict[signal.Signals, Any] = {s: signal.signal(s, self._take) for s in STOPPING}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self._at_once:
            raise Interrupted(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside there is nothing to save: a signal, now or before, raises Interrupted."""
        before, self._at_once = self._at_once, True
        try:
            if self.signal:
                raise Interrupted(self.signal)
            yield
        finally:
            self._at_once = before


class StopOnSignal(HookBase):
    """Save and stop after the step in which the processes told each other of a signal."""

    def __init__(self, save: Callable[[], None], run_dir: str) -> None:
        self.save, self.run_dir = save, run_dir

    def after_step(self) -> None:
        number = self.trainer.agreed_signal
        if not number or self.trainer.iter + 1 >= self.trainer.max_iter:
            return  # after the last step all is saved anyway
        self.save()
        logger.warning(
            "Stopped by %s after iteration %d of %d; continue with the same command and: "
            "run_dir=%s resume=true",
            signal.Signals(number).name,
            self.trainer.iter + 1,
            self.trainer.max_iter,
            self.run_dir,
        )
        raise Interrupted(number)
