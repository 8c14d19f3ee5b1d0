"""Calls that may hang, made in a thread of their own and waited for only so long."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Any, TypeVar

T = TypeVar("T")


class NotInTime(RuntimeError):
    """A call did not return in its time; it may still be under way."""


class Patience:
    """Makes calls one after the other; the one that takes too long is the last."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: of the thread, which ends with the program at the latest.
        """
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._late: str | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def __call__(self, call: Callable[[], T], seconds: float, what: str) -> T:
        """Return what `call` returns, or raise what it raises.

        Args:
            what: is done, for the message.

        Raises:
            NotInTime: it took longer than `seconds`, or one before it did.
        """
        if self._late is not None:
            raise NotInTime(self._late)
        future: Future[T] = Future()
        self._calls.put((call, future))
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            if future.done():  # the call itself raised it
                raise
            self._late = f"{what} took longer than {seconds:g} s"
            raise NotInTime(self._late) from None

    def end(self) -> None:
        """Let the thread go once its calls have returned."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # such as SystemExit: our program goes on
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
