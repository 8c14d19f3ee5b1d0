"""Compare beside the network: a few threads decode labels and match while the next image is run.

One job is one image with all its evaluators, so that a label which two of them read is decoded once
(`label_files`). NumPy and Pillow let go of Python's lock where the time goes.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.stream import StreamingEvaluator

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
