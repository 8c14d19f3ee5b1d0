"""mode=demo: pictures and videos in, drawings and panoptic files out.

Reading, network, drawing and writing at the same time, each image in its turn.

Threads do all but the network, which has the calling one; decoders and drawing let others run
meanwhile. No more images are under way than the threads need, and results come in the order of the
inputs.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from detectron2.utils import comm

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import printable
from panoptic_dl.core.parallel import Progress
from panoptic_dl.demo.inputs import Input, Picture, find_inputs
from panoptic_dl.demo.outputs import DemoSettings, Results
from panoptic_dl.demo.predictor import PanopticResult, Predictor, Prepared, Raw
from panoptic_dl.demo.video import SUFFIX, VideoReader, VideoWriter
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab

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


logger = logging.getLogger(__name__)

FOLDER = "demo"  # in the run's
SHOWN = 20  # failures that the last message lists


def demo(
    *,
    device: str,
    model: Any,
    mapper: Any,
    classes: Classes,
    weights: str | None,
    inputs: Any,
    run_dir: str,
    row: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Predict and draw each input; results appear in `run_dir`/demo as they come.

    Args:
        device: `cuda` or `cpu`.
        model: `PanopticDeepLab` or `DeepLabV3Plus`.
        mapper: its test mapper.
        classes: names and colours.
        weights: a file or run folder that covers all of the model.
        inputs: see `find_inputs`.
        row: the combination of parts, for the log.
        settings: fields of `DemoSettings`.

    Raises:
        DemoError: a setting cannot be; at the end, some inputs could not be read, by name.
    """
    if comm.get_world_size() > 1:
        raise DemoError("mode=demo runs in one process: drop launch.num_gpus and the like")
    if weights is None:
        raise DemoError(
            "mode=demo needs weights=: the output folder of a run, whose config is used, or a file "
            "(.safetensors, .pth, .pkl) with the experiment= or parts that it was trained with"
        )
    choices = DemoSettings(**settings)
    views = choices.views_of(panoptic=isinstance(model, PanopticDeepLab))
    found = find_inputs(inputs)
    logger.info("Model: %s", row)
    predictor = Predictor(
        *(model, mapper, classes),
        weights=weights,
        device=device,
        precision=choices.precision,
        maps=choices.maps,
        branches=choices.needs_branches(views),
    )
    results = Results(Path(run_dir, FOLDER), choices, views, classes)
    run = _Run(predictor, results, choices)
    pictures = [one for one in found.inputs if not one.is_video]
    videos = [one for one in found.inputs if one.is_video]
    for note in found.notes:
        logger.info("%s", note)
    _say_renamed(found.inputs)
    logger.info("%d pictures, %d videos", len(pictures), len(videos))
    started = time.perf_counter()
    try:
        run.pictures(pictures)
        for video in videos:
            run.video(video)
    except KeyboardInterrupt:
        logger.warning("Stopped after %d images; what is in %s is whole", run.done, results.folder)
        raise
    finally:
        results.finish()
    seconds = time.perf_counter() - started
    rate = run.done / max(seconds, 1e-9)
    logger.info("%d images in %.1f s, %.3g images/s", run.done, seconds, rate)
    for line in run.times.lines(choices.workers):
        logger.info("%s", line)
    logger.info("Results: %s", results.places())
    if run.failures:
        raise DemoError(_failed(run.failures, len(found.inputs)))
    return {"metrics": {"images/s": rate, "images": run.done}}


def _say_renamed(inputs: list[Input]) -> None:
    for one in inputs:
        if isinstance(one.source, Path) and one.name != one.source.stem:
            logger.info("Results of %s are called %s", printable(str(one), 4096), one.name)


def _failed(failures: list[str], total: int) -> str:
    listed = "\n".join(f"  {failure}" for failure in failures[:SHOWN])
    more = len(failures) - SHOWN
    return f"{len(failures)} of {total} inputs failed, the others are done:\n{listed}" + (
        f"\n  and {more} more, see log.txt" if more > 0 else ""
    )


class _Run:
    """A demo under way."""

    def __init__(self, predictor: Predictor, results: Results, settings: DemoSettings) -> None:
        self.predictor, self.results, self.settings = predictor, results, settings
        self.done = 0
        self.failures: list[str] = []
        self.times = Times()

    def pictures(self, inputs: list[Input]) -> None:
        """Draw all pictures."""
        if not inputs:
            return
        results = self.results

        def finish(one: Input, image: Prepared, raw: Raw) -> Any:
            result = self.predictor.finish(image, raw)
            results.write(one.name, result, str(one.source))
            return result.notes

        stages: Stages[Input] = self._stages(
            read=lambda one: self.predictor.prepare(str(one.source)), finish=finish
        )
        progress = Progress("drawn", len(inputs))
        try:
            with closing(stages.run(inputs)) as outcomes:
                for outcome in outcomes:
                    if outcome.error is not None:
                        self._fail(str(outcome.error))
                    else:
                        self.done += 1
                        for note in outcome.value:
                            logger.info("%s: %s", printable(str(outcome.item), 4096), note)
                    progress.add(1)
        finally:
            progress.close()
            self.times.merge(stages.times)

    def video(self, one: Input) -> None:
        """Draw a video; one that ends too early fails, but what there is of it is drawn."""
        try:
            reader = VideoReader(one.source)
        except DemoError as error:
            return self._fail(printable(str(error), 4096))
        limit = self.settings.max_frames
        total = reader.total if limit is None else min(limit, reader.total or limit)
        logger.info(
            "%s: %d x %d pixels, %.4g frames/s, %s frames; sound is not kept",
            *(printable(str(one), 4096), *reader.size[::-1], reader.fps, total or "unknown"),
        )
        for note in reader.notes:
            logger.info("%s: %s", printable(str(one), 4096), note)
        writers = {
            kind: VideoWriter(self.results.folder / kind / f"{one.name}{SUFFIX}", reader.fps)
            for kind in self.results.kinds
        }
        read = 0

        def next_frame(number: int) -> Prepared:
            frame = None if limit is not None and number >= limit else reader.read()
            if frame is None:
                raise EndOfStream
            return self.predictor.prepare(Picture(frame))

        def finish(number: int, image: Prepared, raw: Raw) -> Any:
            result: PanopticResult = self.predictor.finish(image, raw)
            source = f"{one.source}#{number}"
            self.results.write_panoptic(f"{one.name}/{number:06d}", result, source)
            return self.results.draw(result, exact=True)

        def write(pictures: dict[str, Any]) -> None:
            for kind, picture in pictures.items():
                writers[kind].write(picture)

        stages: Stages[int] = self._stages(read=next_frame, finish=finish, write=write, readers=1)
        progress = Progress(f"{one.name} drawn", total, unit="frames")
        keep = False
        try:
            with closing(stages.run(count())) as outcomes:
                for outcome in outcomes:
                    if outcome.error is not None:
                        self._fail(str(outcome.error))
                        break
                    read += 1
                    self.done += 1
                    progress.add(1)
            keep = True
        except KeyboardInterrupt:
            keep = True
            raise
        finally:
            progress.close()
            reader.close()
            self.times.merge(stages.times)
            for writer in writers.values():
                writer.close(keep=keep)
        if limit is None and (missing := reader.missing(read)):
            self._fail(missing)

    def _stages(
        self,
        *,
        read: Callable[[Any], Prepared],
        finish: Callable[[Any, Prepared, Raw], Any],
        write: Callable[[Any], Any] | None = None,
        readers: int | None = None,
    ) -> Stages[Any]:
        return Stages(
            read=read,
            network=self.predictor.predict,
            finish=finish,
            write=write,
            num_readers=readers or self.settings.workers,
            num_workers=self.settings.workers,
            batch_size=self.settings.batch_size,
        )

    def _fail(self, reason: str) -> None:
        self.failures.append(printable(reason, 4096))
        logger.warning("%s", self.failures[-1])
