"""Reading, network, drawing and writing at the same time, each image in its turn.

Threads do all but the network, which has the calling one; decoders and drawing let others run
meanwhile. No more images are under way than the threads need, and results come in the order of the
inputs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from .errors import DemoError

Item = TypeVar("Item")


class EndOfStream(Exception):
    """What `read` raises when there is nothing more to read."""


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of an item: `value`, or the error of reading it."""

    item: Item
    value: Any = None
    error: DemoError | None = None


@dataclass
class Times:
    """Seconds of stages, of so many images; and how long the network's thread waited."""

    spent: dict[str, float] = field(default_factory=dict)  # in all threads of the stage
    waited: dict[str, float] = field(default_factory=dict)
    images: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def add(self, table: dict[str, float], stage: str, since: float) -> None:
        """Count the seconds since then; from any thread."""
        with self._lock:
            table[stage] = table.get(stage, 0.0) + time.perf_counter() - since

    def merge(self, other: "Times") -> None:
        """Add those of another run."""
        self.images += other.images
        for mine, theirs in ((self.spent, other.spent), (self.waited, other.waited)):
            for stage, seconds in theirs.items():
                mine[stage] = mine.get(stage, 0.0) + seconds

    def lines(self, num_workers: int) -> list[str]:
        """Milliseconds an image of each stage, and which of them the others waited for."""
        if not self.images:
            return []
        stages = [
            f"{stage} {1000 * seconds / self.images:.1f}" for stage, seconds in self.spent.items()
        ]
        busy = {"network": self.spent.get("network", 0.0), **self.waited}
        slowest = max(busy, key=lambda stage: busy[stage])
        share = busy[slowest] / max(sum(busy.values()), 1e-9)
        return [
            f"ms an image: {', '.join(stages)}; all but the network in {num_workers} threads",
            f"bottleneck: {slowest}, {100 * share:.0f} % of the time was spent on it or waiting "
            "for it",
        ]


class Stages(Generic[Item]):
    """A way from items to results.

    Args:
        read: from an item to what the network takes; in `num_readers` threads.
        network: from several of these to what it says of each.
        finish: from (item, read, said) to a result; in `num_workers` threads.
        write: if there is one, takes the results in their order, in a thread of its own.
        num_readers: 1 where items must be read in their order.
        batch_size: images that the network gets at once.
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
    ) -> None:
        self._read, self._network, self._finish, self._write = read, network, finish, write
        self._ahead = num_readers + batch_size
        self._behind = num_workers + batch_size
        self._batch_size = batch_size
        self._readers = ThreadPoolExecutor(num_readers, "read")
        self._workers = ThreadPoolExecutor(num_workers, "draw")
        self._writer = ThreadPoolExecutor(1, "write")
        self.times = Times()

    def run(self, items: Iterable[Item]) -> Generator[Outcome[Item], None, None]:
        """The outcomes of all items, in their order, as they come.

        An item that cannot be read is an outcome with an error. Errors of other stages end it all.
        When this ends early, by an error or Ctrl-C, what is being drawn and written is finished
        first, and nothing else is begun.
        """
        try:
            yield from self._run(iter(items))
        finally:
            for pool in (self._readers, self._workers, self._writer):
                pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, items: Iterator[Item]) -> Iterator[Outcome[Item]]:
        reading: deque[tuple[Item, Future[Any]]] = deque()
        finishing: deque[tuple[Item, Future[Any] | DemoError]] = deque()
        more = True
        while True:
            batch: list[tuple[Item, Any]] = []  # an error where one could not be read
            while len(batch) < self._batch_size:
                more = more and self._read_ahead(items, reading)
                if not reading:
                    break
                item, future = reading.popleft()
                since = time.perf_counter()
                try:
                    batch.append((item, future.result()))
                except DemoError as error:
                    batch.append((item, error))
                except EndOfStream:
                    more = False
                    reading.clear()
                self.times.add(self.times.waited, "reading", since)
            if batch:
                finishing += self._pass_on(batch)
            elif not reading and not more:
                break
            while finishing and (len(finishing) > self._behind or _is_done(finishing[0][1])):
                yield self._outcome(*finishing.popleft())
        while finishing:
            yield self._outcome(*finishing.popleft())

    def _read_ahead(self, items: Iterator[Item], reading: deque[tuple[Item, Future[Any]]]) -> bool:
        """Keep the readers busy; whether there may be more items."""
        while len(reading) < self._ahead:
            try:
                item = next(items)
            except StopIteration:
                return False
            reading.append((item, self._readers.submit(self._timed, "reading", self._read, item)))
        return True

    def _pass_on(
        self, batch: Sequence[tuple[Item, Any]]
    ) -> Iterator[tuple[Item, Future[Any] | DemoError]]:
        whole = [read for _, read in batch if not isinstance(read, DemoError)]
        since = time.perf_counter()
        try:
            said = iter(self._network(whole) if whole else [])
        except torch.OutOfMemoryError:
            error = DemoError(
                "out of GPU memory: demo.batch_size=1 demo.precision=bf16, or a smaller "
                "dataset.max_size_test; launch.num_gpus=0 takes the CPU"
            )
            yield from (
                (item, read if isinstance(read, DemoError) else error) for item, read in batch
            )
            return
        self.times.add(self.times.spent, "network", since)
        for item, read in batch:
            if isinstance(read, DemoError):
                yield item, read
                continue
            work = self._workers.submit(
                self._timed, "drawing and encoding", self._finish, item, read, next(said)
            )
            if self._write is not None:
                work = self._writer.submit(self._written, work)
            yield item, work

    def _written(self, work: Future[Any]) -> Any:
        result = work.result()
        assert self._write is not None
        return self._timed("writing", self._write, result)

    def _timed(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        since = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self.times.add(self.times.spent, stage, since)

    def _outcome(self, item: Item, work: "Future[Any] | DemoError") -> Outcome[Item]:
        if isinstance(work, DemoError):
            return Outcome(item, error=work)
        since = time.perf_counter()
        value = work.result()
        self.times.add(self.times.waited, "drawing and writing", since)
        self.times.images += 1
        return Outcome(item, value)


def _is_done(work: "Future[Any] | DemoError") -> bool:
    return isinstance(work, DemoError) or work.done()
