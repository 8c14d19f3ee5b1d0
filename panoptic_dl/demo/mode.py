"""mode=demo: pictures and videos in, drawings and panoptic files out."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.classes import Classes
from panoptic_dl.engine.progress import Progress
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.weights.printable import printable

from .errors import DemoError
from .images import Picture
from .inputs import Input, find_inputs
from .network import Prepared, Raw
from .predictor import Predictor
from .result import PanopticResult
from .results import Results
from .settings import DemoSettings
from .stages import EndOfStream, Stages, Times
from .video import SUFFIX, VideoReader, VideoWriter

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
        progress = Progress(len(inputs), what="drawn")
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
        progress = Progress(total, what=f"{one.name} drawn")
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
