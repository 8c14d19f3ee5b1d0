"""mode=demo: pictures and videos in, drawings and panoptic files out.

Reading, network, drawing and writing run at the same time, each image in its turn. Threads do all
but the network, which runs in the calling one; decoders and drawing release Python's lock. No more
images are in memory than the threads need, and results come in the order of the inputs.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from detectron2.utils import comm

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import printable
from panoptic_dl.core.parallel import Progress, count_cores
from panoptic_dl.core.run_folder import is_exported
from panoptic_dl.core.settings import DemoSettings
from panoptic_dl.demo.inputs import Input, VideoReader, common_folder, find_inputs
from panoptic_dl.demo.outputs import MASKS, SUFFIX, ResultWriter, VideoWriter
from panoptic_dl.demo.predictor import Predictor
from panoptic_dl.launch.session import accept
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.runtime.prediction import BasePredictor, NetworkOutput, PreparedImage
from panoptic_dl.runtime.result import BRANCHES, check_views
from panoptic_dl.runtime.session import Session

logger = logging.getLogger(__name__)

FOLDER = "demo"  # in the run's
MOST_LISTED = 20  # failures that the last message lists
MOST_WORKERS = 8  # by default, as many threads read as draw and write


def demo(
    *,
    device: str,
    model: Callable[[], Any],
    mapper: Callable[[], Any],
    classes: Callable[[], Classes],
    weights: str | None,
    inputs: Any,
    run_dir: str,
    row: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Predict and draw each input (see `find_inputs`); results come into `run_dir`/demo one by one.

    `model`, its test `mapper` and `classes` are made when they are called, which an exported file
    does not need; `row` is the combination of parts, for the log; `settings` are fields of
    `DemoSettings`.

    Raises DemoError for a setting that cannot be; at the end, for inputs that could not be read.
    """
    if comm.get_world_size() > 1:
        raise DemoError("mode=demo runs in one process: drop launch.num_gpus and the like")
    if weights is None:
        raise DemoError(
            "mode=demo needs weights=: the output folder of a run, whose config is used, a file "
            "(.safetensors, .pth, .pkl) with the experiment= or parts that it was trained with, or "
            "the .onnx file of mode=export"
        )
    choices = DemoSettings(**settings)
    predictor: BasePredictor
    if exported := is_exported(weights):
        providers = ["CPUExecutionProvider"] if device == "cpu" else None
        predictor = Session(weights, providers=providers, maps=choices.maps)
        panoptic, row = predictor.is_panoptic, f"{predictor}"
    else:
        network = model()
        panoptic = isinstance(network, PanopticDeepLab)
    views = choices.views or ("panoptic" if panoptic else "semantic")
    views = [views] if isinstance(views, str) else list(views)
    try:
        check_views(views, panoptic=panoptic)
    except DemoError as error:
        raise DemoError(f"demo.views: {error}") from None
    if not panoptic and choices.save not in (None, [], MASKS, [MASKS]):
        raise DemoError("demo.save: task=semantic has no segments to save, only masks")
    branches = bool(set(views) & set(BRANCHES))
    if exported and (branches or choices.precision not in ("fp32", "tf32")):
        raise DemoError(
            f"{weights} has the precision that it was exported with, and tells no centers and "
            f"offsets: leave out demo.precision and the views {' and '.join(BRANCHES)}, or take "
            "the run that it was exported from"
        )
    found = find_inputs(inputs)
    logger.info("Model: %s", row)
    if not exported:
        predictor = Predictor(
            network,
            mapper(),
            classes(),
            weights=weights,
            device=device,
            precision=choices.precision,
            maps=choices.maps,
            branches=branches,
        )
    results = ResultWriter(Path(run_dir, FOLDER), choices, views, predictor.classes)
    accept()
    run = _Run(predictor, results, choices, common_folder(found))
    pictures = [one for one in found if not one.is_video]
    videos = [one for one in found if one.is_video]
    logger.info("%d pictures, %d videos", len(pictures), len(videos))
    started = time.perf_counter()
    try:
        if pictures:
            run.pictures(pictures)
        for video in videos:
            run.video(video)
    except KeyboardInterrupt:
        logger.warning(
            "Stopped after %d images; files in %s are complete", run.done, results.folder
        )
        raise
    finally:
        results.finish()
    seconds = time.perf_counter() - started
    rate = run.done / max(seconds, 1e-9)
    logger.info("%d images in %.1f s, %.3g images/s", run.done, seconds, rate)
    for line in run.times.lines(run.num_workers):
        logger.info("%s", line)
    logger.info("Results: %s", results.places())
    if run.failures:
        listed = "\n".join(f"  {failure}" for failure in run.failures[:MOST_LISTED])
        if len(run.failures) > MOST_LISTED:
            listed += f"\n  and {len(run.failures) - MOST_LISTED} more, see log.txt"
        raise DemoError(
            f"{len(run.failures)} of {len(found)} inputs failed, the others are done:\n{listed}"
        )
    return {"metrics": {"images/s": rate, "images": run.done}}


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


class _Run:
    """A demo under way."""

    def __init__(
        self, predictor: BasePredictor, results: ResultWriter, settings: DemoSettings, base: Path
    ) -> None:
        self.predictor, self.results, self.settings = predictor, results, settings
        self.base = base  # of the inputs
        self.num_workers = settings.num_workers or min(MOST_WORKERS, count_cores())
        self.done = 0
        self.failures: list[str] = []
        self.times = StageTimes()
        self.make_pipeline = partial(
            Pipeline,
            network=predictor.predict,
            num_workers=self.num_workers,
            batch_size=settings.batch_size,
            times=self.times,
        )

    def pictures(self, inputs: list[Input]) -> None:
        """Draw all pictures."""

        def finish(one: Input, image: PreparedImage, output: NetworkOutput) -> tuple[str, ...]:
            result = self.predictor.finish(image, output)
            self.results.write(one.name, result, self._source(one))
            return result.notes

        pipeline: Pipeline[Input] = self.make_pipeline(
            read=lambda one: self.predictor.prepare(str(one.source)),
            finish=finish,
            num_readers=self.num_workers,
        )
        with Progress("drawn", len(inputs)) as progress, closing(pipeline.run(inputs)) as run:
            for one, notes in run:
                if isinstance(notes, DemoError):
                    self._fail(str(notes))
                else:
                    self.done += 1
                    for note in notes:
                        logger.info("%s: %s", printable(str(one), 4096), note)
                progress.add(1)

    def video(self, one: Input) -> None:
        """Draw a video; one that ends too early fails, but what there is of it is drawn."""
        try:
            reader = VideoReader(one.source)
        except DemoError as error:
            return self._fail(str(error))
        name, limit = printable(str(one), 4096), self.settings.max_frames
        total = reader.total if limit is None else min(limit, reader.total or limit)
        height, width = reader.size
        rate = f"{width} x {height} pixels, {reader.fps:.4g} frames/s"
        for note in (f"{rate}, {total or 'unknown'} frames; sound is not kept", *reader.notes):
            logger.info("%s: %s", name, note)
        writers: dict[str, VideoWriter] = {}
        num_read = 0

        def read(number: int) -> PreparedImage | None:
            frame = None if limit is not None and number >= limit else reader.read()
            return None if frame is None else self.predictor.prepare(frame)

        def finish(number: int, image: PreparedImage, output: NetworkOutput) -> dict[str, Any]:
            result = self.predictor.finish(image, output)
            source = f"{self._source(one)}#{number}"
            self.results.write_files(f"{one.name}/{number:06d}", result, source)
            return self.results.draw(result, legend=False)

        def write(pictures: dict[str, Any]) -> None:
            for kind, picture in pictures.items():
                writers[kind].write(picture)

        pipeline: Pipeline[int] = self.make_pipeline(
            read=read, finish=finish, write=write, num_readers=1
        )
        with ExitStack() as stack:
            stack.callback(reader.close)
            for kind in self.results.kinds:
                file = self.results.folder / kind / f"{one.name}{SUFFIX}"
                writers[kind] = stack.enter_context(VideoWriter(file, reader.fps))
            progress = stack.enter_context(Progress(f"{one.name} drawn", total, unit="frames"))
            for _, outcome in stack.enter_context(closing(pipeline.run(count()))):
                if isinstance(outcome, DemoError):
                    self._fail(str(outcome))
                    break
                num_read += 1
                self.done += 1
                progress.add(1)
        if limit is None and (missing := reader.missing(num_read)):
            self._fail(missing)

    def _source(self, one: Input) -> str:
        """How files for other programs name an input: below the folder that holds all of them."""
        if isinstance(one.source, int):
            return str(one.source)
        return Path(os.path.abspath(one.source)).relative_to(self.base).as_posix()

    def _fail(self, reason: str) -> None:
        self.failures.append(printable(reason, 4096))
        logger.warning("%s", self.failures[-1])
