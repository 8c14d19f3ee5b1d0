"""What streaming evaluators have in common: three steps an image, of which the costly one is free.

take     what is needed of a prediction, off the GPU           in the thread of the network
compare  read the truth, compare; changes nothing               in any thread (`beside`)
add      a few integers to the counts                           one image after another

Which images of a split have been evaluated: each must be, once, by one of the processes.

Compare beside the network: a few threads decode labels and match while the next image is run.

One job is one image with all its evaluators, so that a label which two of them read is decoded once
(`label_files`). NumPy and Pillow let go of Python's lock where the time goes.
"""

import ctypes
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from panoptic_dl.core.errors import EvaluationError


class Coverage:
    """Counts how often each image of a split has been evaluated.

    `seen`, (number of images,) int64, is summed over the processes; then `require_all`.
    """

    def __init__(self, images: Iterable[Hashable], source: str) -> None:
        """Remember the images with truth.

        Args:
            images: what names an image: its id, or its file; in any order.
            source: where their truth is listed, for messages.
        """
        self._images = sorted(images, key=str)  # the same order in every process
        self._positions = {image: position for position, image in enumerate(self._images)}
        self._source = source
        if not self._images:
            raise EvaluationError(f"{source} lists no images: nothing to evaluate")
        self.reset()

    def reset(self) -> None:
        """Forget what has been seen."""
        self._seen = np.zeros(len(self._images), dtype=np.int64)
        self._failed = False
        self._rehearsed: int | None = None

    def rehearse(self, number: int) -> None:
        """Until `reset`, any `number` of the images are to be evaluated instead of all.

        For a trial of the evaluation, whose figures are no results.
        """
        self._rehearsed = number

    def fail(self) -> None:
        """An image could not be evaluated: until `reset` none counts as seen."""
        self._failed = True

    @property
    def seen(self) -> np.ndarray:
        """How often this process has evaluated each image."""
        return np.zeros_like(self._seen) if self._failed else self._seen

    def add(self, image: Hashable) -> None:
        """Count an image.

        Raises:
            EvaluationError: it has no truth, or has been counted before.
        """
        if image not in self._positions:
            raise EvaluationError(
                f"no truth for image {image} in {self._source}: the images that are evaluated must "
                "be those of the dataset that the evaluator was made for"
            )
        position = self._positions[image]
        if self._seen[position]:
            raise EvaluationError(f"image {image} of {self._source} was evaluated twice")
        self._seen[position] = 1

    def require_all(self, seen: np.ndarray) -> int:
        """Return the number of images; `seen` is the sum over all processes.

        Raises:
            EvaluationError: an image has no prediction, or more than one.
        """
        missing = np.flatnonzero(seen == 0)
        if self._rehearsed is not None:
            if len(seen) - len(missing) != self._rehearsed:
                raise EvaluationError(
                    f"{len(seen) - len(missing)} predictions for the {self._rehearsed} images of "
                    f"{self._source} in a trial: all of them must be evaluated"
                )
        elif len(missing):
            number = len(seen)
            raise EvaluationError(
                f"no prediction for image {self._images[missing[0]]} of {self._source} "
                f"({number - len(missing)} predictions for {number} images): the whole split must "
                "be evaluated"
            )
        if (seen > 1).any():
            image = self._images[int(np.flatnonzero(seen > 1)[0])]
            raise EvaluationError(
                f"image {image} of {self._source} was evaluated by more than one process: use a "
                "sampler that neither repeats nor pads (Detectron2's InferenceSampler)"
            )
        return len(seen) - len(missing)


Taken = TypeVar("Taken")
Compared = TypeVar("Compared")


class StreamingEvaluator(DatasetEvaluator, Generic[Taken, Compared]):
    """A Detectron2 evaluator whose `process` is `add(compare(take(...)))` of each image.

    Attributes:
        needs: the entry of a model's output that is evaluated.
    """

    needs: ClassVar[str]
    _coverage: Coverage

    @abstractmethod
    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Taken:
        """Keep of one image what `compare` needs, in NumPy's arrays, and count the image as seen.

        Maps are copies: a model may use its memory again, and Detectron2's evaluators write to
        them. Masks of instances are not, for they are large: on the CPU they must stay as they are.

        Raises:
            EvaluationError: the image has no truth or comes again; a prediction does not fit.
        """

    @abstractmethod
    def compare(self, taken: Taken) -> Compared:
        """Read the truth of an image and compare; leaves the evaluator as it is.

        Raises:
            EvaluationError: the truth cannot be read, or does not fit the prediction.
        """

    @abstractmethod
    def add(self, compared: Compared) -> None:
        """Count what was compared; the order of images makes no difference."""

    def quality(self, compared: Compared) -> float | None:
        """How good a single image is, 0..1, to find the best and the worst; None: not known."""
        return None

    def as_output(self, taken: Taken) -> dict[str, Any]:
        """What was taken of a prediction in the form of a model's output, for pictures."""
        raise NotImplementedError  # of evaluators that know no quality

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take, compare and add each image."""
        for item, output in zip(inputs, outputs, strict=True):
            try:
                self.add(self.compare(self.take(item, output)))
            except BaseException:
                self.fail()
                raise

    def fail(self) -> None:
        """Give no figures before `reset`, for an image that was taken was not added."""
        self._coverage.fail()

    def rehearse(self, number: int) -> None:
        """Until `reset`, take `number` images for all: a trial, whose figures are no results."""
        self._coverage.rehearse(number)

    def entry(self, output: dict[str, Any]) -> Any:
        """What the evaluator needs of an output.

        Raises:
            EvaluationError: it is not there.
        """
        value = output.get(self.needs)
        if value is None:
            raise EvaluationError(f'the model\'s output has no "{self.needs}"')
        return value


@contextmanager
def naming(image: object) -> Iterator[None]:
    """Put the name of an image before the errors of what is inside."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"image {image}: {error}") from error


M_ARENA_MAX = -8  # of mallopt(3)

Offer = Callable[[dict[str, Any], dict[str, Any], float], None]


def share_arenas() -> None:
    """Let glibc make two arenas at most: with one a thread, each keeps what images of it took."""
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


class Beside(DatasetEvaluator):
    """Streaming evaluators in one, which do their work in a bounded pool of threads.

    Figures do not depend on the number of threads: counts are added by the thread that calls, in
    the order of the images. At most `num_threads` + 1 images wait, and are kept in memory; with
    that many waiting, `process` waits too, so that evaluation takes as long as the slower of
    network and comparison. An error of an image is raised by the next call.
    """

    def __init__(
        self,
        evaluators: Sequence[StreamingEvaluator[Any, Any]],
        *,
        num_threads: int,
        offer: Offer | None = None,
    ) -> None:
        """
        Args:
            evaluators: their results are merged; no two may report the same task.
            num_threads: 0 compares within `process`.
            offer: called with each input, its prediction and its quality in 0..1, by the calling
                thread, in order; quality is that of the first evaluator which knows one.
        """
        if type(num_threads) is not int or num_threads < 0:
            raise ValueError(f"evaluation.num_threads={num_threads} must be a whole number from 0")
        self.evaluators = list(evaluators)
        self._offer = offer
        self._num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[dict[str, Any], list[Any], Future[list[Any]]]] = deque()

    def reset(self) -> None:
        """Forget all images."""
        self.close()
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Hand over outputs; returns before they are compared, unless too many are waiting."""
        try:
            self._process(inputs, outputs)
        except BaseException:
            for evaluator in self.evaluators:
                evaluator.fail()
            raise

    def _process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            taken = [evaluator.take(item, output) for evaluator in self.evaluators]
            if not self._num_threads:
                self._add(item, taken, self._compare(taken))
                continue
            if self._pool is None:
                share_arenas()
                self._pool = ThreadPoolExecutor(self._num_threads, "evaluation")
            self._waiting.append((item, taken, self._pool.submit(self._compare, taken)))
            while len(self._waiting) > self._num_threads or (
                self._waiting and self._waiting[0][2].done()
            ):
                self._finish_first()

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Wait for all images, then for the figures of all evaluators; None but in the first rank.

        Raises:
            EvaluationError: what an evaluator refuses, or a task that two of them report.
        """
        try:
            while self._waiting:
                self._finish_first()
        except BaseException:
            for evaluator in self.evaluators:
                evaluator.fail()
            raise
        finally:
            self.close()
        results: dict[str, dict[str, Any]] = {}
        for evaluator in self.evaluators:  # each takes part in an exchange of all processes
            for task, figures in (evaluator.evaluate() or {}).items():
                if task in results:
                    raise EvaluationError(f"two evaluators report {task}: leave one out")
                results[task] = figures
        return results or None

    def close(self) -> None:
        """End the threads; what still waits is dropped."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _compare(self, taken: list[Any]) -> list[Any]:
        return [
            evaluator.compare(each) for evaluator, each in zip(self.evaluators, taken, strict=True)
        ]

    def _finish_first(self) -> None:
        item, taken, future = self._waiting.popleft()
        self._add(item, taken, future.result())

    def _add(self, item: dict[str, Any], taken: list[Any], compared: list[Any]) -> None:
        for evaluator, each in zip(self.evaluators, compared, strict=True):
            evaluator.add(each)
        if self._offer is None:
            return
        for evaluator, prediction, each in zip(self.evaluators, taken, compared, strict=True):
            quality = evaluator.quality(each)
            if quality is not None:
                self._offer(item, evaluator.as_output(prediction), quality)
                return
