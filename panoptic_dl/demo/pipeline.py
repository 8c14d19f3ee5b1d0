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
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

from panoptic_dl.core.errors import DemoError

Item = TypeVar("Item")


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


@dataclass(kw_only=True)
class Pipeline(Generic[Item]):
    """Turns items into results; to be run once."""

    read: Callable[[Item], Any]  # to the network's input; None where a stream has ended
    network: Callable[[Sequence[Any]], Sequence[Any]]  # from several inputs to all outputs
    finish: Callable[[Item, Any, Any], Any]  # from (item, input, output) to a result
    write: Callable[[Any], Any] | None = None  # takes results in their order, in a thread
    num_readers: int  # threads; 1 where items must be read in their order
    num_workers: int  # threads that finish
    batch_size: int = 1  # images that the network gets at once
    times: StageTimes = field(default_factory=StageTimes)

    def run(self, items: Iterable[Item]) -> Generator[tuple[Item, Any], None, None]:
        """All items with their results, in their order, as they come.

        The result of an item that cannot be read is the DemoError. Errors of other stages end the
        run. When this ends early, by an error or Ctrl-C, what is being drawn and written is
        finished first, and nothing else is begun.
        """
        threads = {"read": self.num_readers, "draw": self.num_workers, "write": 1}
        pools = [ThreadPoolExecutor(number, name) for name, number in threads.items()]
        self._readers, self._workers, self._writer = pools
        waiting, reading = iter(items), deque[tuple[Item, Future[Any]]]()
        finishing: deque[tuple[Item, Future[Any]]] = deque()
        try:
            while batch := self._read_batch(waiting, reading):
                finishing += self._start_to_finish(batch)
                while finishing and (
                    len(finishing) > self.num_workers + self.batch_size or finishing[0][1].done()
                ):
                    yield self._wait(*finishing.popleft())
            while finishing:
                yield self._wait(*finishing.popleft())
        finally:
            for pool in pools:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_batch(
        self, items: Iterator[Item], reading: deque[tuple[Item, Future[Any]]]
    ) -> list[tuple[Item, Any]]:
        """The next items and what was read; keeps the readers busy with those that follow."""
        batch: list[tuple[Item, Any]] = []
        while len(batch) < self.batch_size:
            for item in islice(items, self.num_readers + self.batch_size - len(reading)):
                work = self._readers.submit(self._timed, "reading", self.read, item)
                reading.append((item, work))
            if not reading:
                break
            item, work = reading.popleft()
            with self.times.measure(self.times.waited, "reading"):
                try:
                    read = work.result()
                except DemoError as error:
                    read = error
            if read is None:
                reading.clear()
                break
            batch.append((item, read))
        return batch

    def _start_to_finish(
        self, batch: Sequence[tuple[Item, Any]]
    ) -> Iterator[tuple[Item, Future[Any]]]:
        """Run the network on a batch, and start to finish its images."""
        inputs = [read for _, read in batch if not isinstance(read, DemoError)]
        try:
            outputs = iter(self._timed("network", self.network, inputs) if inputs else [])
        except torch.OutOfMemoryError:
            error = DemoError(
                "out of GPU memory: demo.batch_size=1 demo.precision=bf16, or a smaller "
                "dataset.max_size_test; launch.num_gpus=0 takes the CPU"
            )
            batch = [(item, read if isinstance(read, DemoError) else error) for item, read in batch]
        for item, read in batch:
            work: Future[Any] = Future()
            if isinstance(read, DemoError):
                work.set_result(read)
            else:
                stage = "drawing and encoding"
                arguments = item, read, next(outputs)
                work = self._workers.submit(self._timed, stage, self.finish, *arguments)
                if self.write is not None:
                    work = self._writer.submit(self._write_result, work)
            yield item, work

    def _write_result(self, work: Future[Any]) -> Any:
        return self._timed("writing", self.write, work.result())

    def _timed(self, stage: str, function: Any, *arguments: Any) -> Any:
        with self.times.measure(self.times.spent, stage):
            return function(*arguments)

    def _wait(self, item: Item, work: Future[Any]) -> tuple[Item, Any]:
        with self.times.measure(self.times.waited, "drawing and writing"):
            result = work.result()
        self.times.images += not isinstance(result, DemoError)
        return item, result
