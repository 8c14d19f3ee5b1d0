"""mode=demo: pictures and videos in, drawings and panoptic files out."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import printable
from panoptic_dl.core.parallel import Progress, count_cores
from panoptic_dl.core.run_folder import is_exported
from panoptic_dl.core.settings import DemoSettings
from panoptic_dl.demo.inputs import Input, common_folder, find_inputs
from panoptic_dl.demo.outputs import MASKS, ResultWriter
from panoptic_dl.demo.pipeline import Pipeline, StageTimes
from panoptic_dl.demo.predictor import Predictor
from panoptic_dl.demo.video import SUFFIX, VideoReader, VideoWriter
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
    if exported and (branches or choices.precision != "fp32"):
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
