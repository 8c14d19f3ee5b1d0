"""Reading, network, drawing and writing at the same time, each image in its turn.

Threads do all but the network, which runs in the calling one; decoders and drawing release Python's
lock. No more images are in memory than the threads need, and results come in the order of the
inputs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from panoptic_dl.core.errors import DemoError

Item = TypeVar("Item")


class EndOfStream(Exception):
    """What `read` raises when there is nothing more to read."""


@dataclass(frozen=True)
class _Outcome(Generic[Item]):
    """The result of an item, or the error of reading it."""

    item: Item
    value: Any = None
    error: DemoError | None = None


class StageTimes:
    """Seconds that stages took in all their threads, and that the network's thread waited."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.waited: dict[str, float] = {}
        self.images = 0
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, table: dict[str, float], stage: str) -> Iterator[None]:
        """Add the seconds of the block to `spent` or `waited`; from any thread."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                table[stage] = table.get(stage, 0.0) + time.perf_counter() - start

    def lines(self, num_workers: int) -> list[str]:
        """Milliseconds per image of each stage, and the stage that the others waited for."""
        if not self.images:
            return []
        stages = [
            f"{stage} {1000 * spent / self.images:.1f}" for stage, spent in self.spent.items()
        ]
        busy = {"network": self.spent.get("network", 0.0), **self.waited}
        slowest = max(busy, key=lambda stage: busy[stage])
        share = busy[slowest] / max(sum(busy.values()), 1e-9)
        return [
            f"ms an image: {', '.join(stages)}; all but the network in {num_workers} threads",
            f"bottleneck: {slowest}, {100 * share:.0f} % of the time was spent on it or waiting "
            "for it",
        ]


class Pipeline(Generic[Item]):
    """Turns items into results; to be run once.

    Args:
        read: from an item to an input of the network; in `num_readers` threads.
        network: from several inputs to the output of each.
        finish: from (item, input, output) to a result; in `num_workers` threads.
        write: if given, takes the results in their order, in a thread of its own.
        num_readers: 1 where items must be read in their order.
        batch_size: images that the network gets at once.
        times: where the seconds of the stages are added.
    """

    def __init__(
        self,
        *,
        read: Callable[[Item], Any],
        network: Callable[[Sequence[Any]], Sequence[Any]],
        finish: Callable[[Item, Any, Any], Any],
        write: Callable[[Any], Any] | None = None,
        num_readers: int,
        num_workers: int,
        batch_size: int = 1,
        times: StageTimes | None = None,
    ) -> None:
        self._read, self._network, self._finish, self._write = read, network, finish, write
        self._max_reading = num_readers + batch_size
        self._max_finishing = num_workers + batch_size
        self._batch_size = batch_size
        self._readers = ThreadPoolExecutor(num_readers, "read")
        self._workers = ThreadPoolExecutor(num_workers, "draw")
        self._writer = ThreadPoolExecutor(1, "write")
        self.times = times or StageTimes()

    def run(self, items: Iterable[Item]) -> Generator[_Outcome[Item], None, None]:
        """The outcomes of all items, in their order, as they come.

        An item that cannot be read is an outcome with an error. Errors of other stages end the run.
        When this ends early, by an error or Ctrl-C, what is being drawn and written is finished
        first, and nothing else is begun.
        """
        try:
            yield from self._run(iter(items))
        finally:
            for pool in (self._readers, self._workers, self._writer):
                pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, items: Iterator[Item]) -> Iterator[_Outcome[Item]]:
        reading: deque[tuple[Item, Future[Any]]] = deque()
        finishing: deque[Future[_Outcome[Item]]] = deque()
        has_more = True
        while has_more or reading:
            batch: list[tuple[Item, Any]] = []  # an error where an item could not be read
            while len(batch) < self._batch_size:
                has_more = has_more and self._fill(reading, items)
                if not reading:
                    break
                item, future = reading.popleft()
                with self.times.measure(self.times.waited, "reading"):
                    try:
                        batch.append((item, future.result()))
                    except DemoError as error:
                        batch.append((item, error))
                    except EndOfStream:
                        has_more = False
                        reading.clear()
            finishing += self._submit(batch)
            while finishing and (len(finishing) > self._max_finishing or finishing[0].done()):
                yield self._wait(finishing.popleft())
        while finishing:
            yield self._wait(finishing.popleft())

    def _fill(self, reading: deque[tuple[Item, Future[Any]]], items: Iterator[Item]) -> bool:
        """Keep the readers busy; whether there may be more items."""
        while len(reading) < self._max_reading:
            try:
                item = next(items)
            except StopIteration:
                return False
            future = self._readers.submit(self._timed, "reading", self._read, item)
            reading.append((item, future))
        return True

    def _submit(self, batch: Sequence[tuple[Item, Any]]) -> Iterator[Future[_Outcome[Item]]]:
        """Run the network on a batch, and start to finish its images."""
        inputs = [read for _, read in batch if not isinstance(read, DemoError)]
        try:
            outputs = iter(self._timed("network", self._network, inputs) if inputs else [])
        except torch.OutOfMemoryError:
            error = DemoError(
                "out of GPU memory: demo.batch_size=1 demo.precision=bf16, or a smaller "
                "dataset.max_size_test; launch.num_gpus=0 takes the CPU"
            )
            batch = [(item, read if isinstance(read, DemoError) else error) for item, read in batch]
        for item, read in batch:
            work: Future[_Outcome[Item]] = Future()
            if isinstance(read, DemoError):
                work.set_result(_Outcome(item, error=read))
            else:
                work = self._workers.submit(self._finish_item, item, read, next(outputs))
                if self._write is not None:
                    work = self._writer.submit(self._write_result, work, self._write)
            yield work

    def _finish_item(self, item: Item, read: Any, output: Any) -> _Outcome[Item]:
        value = self._timed("drawing and encoding", self._finish, item, read, output)
        return _Outcome(item, value)

    def _write_result(
        self, work: Future[_Outcome[Item]], write: Callable[[Any], Any]
    ) -> _Outcome[Item]:
        outcome = work.result()
        return replace(outcome, value=self._timed("writing", write, outcome.value))

    def _timed(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        with self.times.measure(self.times.spent, stage):
            return function(*arguments)

    def _wait(self, work: Future[_Outcome[Item]]) -> _Outcome[Item]:
        with self.times.measure(self.times.waited, "drawing and writing"):
            outcome = work.result()
        self.times.images += outcome.error is None
        return outcome
