"""The base of streaming evaluators: three steps an image, the slow one of which runs in threads.

extract  copy what is needed of a prediction to the CPU     in the thread of the network
match    read the ground truth and compare with it          in any thread: it changes nothing
update   add a few integers to the counts                   in the thread of the network, in order

No file is written, each label is read once, and the processes of a run share only the counts.
"""

import ctypes
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BitMasks

from panoptic_dl.core.distributed import sum_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.postprocess.semantic import waits

Prediction = TypeVar("Prediction")
Match = TypeVar("Match")
Sample = dict[str, Any]
Output = dict[str, Any]

M_ARENA_MAX = -8  # of mallopt(3)


class Coverage:
    """Which images of a split have been evaluated: each must be, once, by one of the processes."""

    def __init__(self, images: Iterable[Hashable], source: str) -> None:
        """`images`: ids or files with ground truth, in any order, that `source` lists."""
        self._images = sorted(images, key=str)  # the same order in every process
        self._positions = {image: position for position, image in enumerate(self._images)}
        self._source = source
        if not self._images:
            raise EvaluationError(f"{source} lists no images: nothing to evaluate")
        self.reset()

    def reset(self) -> None:
        """Forget what has been evaluated."""
        # How often this process has evaluated each image.
        self.seen = np.zeros(len(self._images), dtype=np.int64)
        self._limit: int | None = None

    def limit(self, number: int) -> None:
        """Until `reset`, expect any `number` of the images instead of all of them."""
        self._limit = number

    def add(self, image: Hashable) -> None:
        """Count an image; EvaluationError if it has no ground truth, or has been counted before."""
        if image not in self._positions:
            raise EvaluationError(
                f"no ground truth for image {image} in {self._source}: the images that are "
                "evaluated must be those of the dataset that the evaluator was made for"
            )
        position = self._positions[image]
        if self.seen[position]:
            raise EvaluationError(f"image {image} of {self._source} was evaluated twice")
        self.seen[position] = 1

    def require_all(self, seen: np.ndarray) -> int:
        """The number of evaluated images; EvaluationError unless each was, once, by one process."""
        missing, repeated = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
        num_seen = len(seen) - len(missing)
        wanted = len(seen) if self._limit is None else self._limit
        if num_seen != wanted:
            raise EvaluationError(
                f"no prediction for image {self._images[seen.argmin()]} of {self._source} "
                f"({num_seen} predictions for {wanted} images): the whole split must be evaluated"
            )
        if len(repeated):
            raise EvaluationError(
                f"image {self._images[repeated[0]]} of {self._source} was evaluated by more than "
                "one process: use a sampler that neither repeats nor pads (Detectron2's "
                "InferenceSampler)"
            )
        return num_seen


class StreamingEvaluator(DatasetEvaluator, Generic[Prediction, Match]):
    """A Detectron2 evaluator in three steps: `update(match(extract(input, output)))`.

    `evaluate` returns results by task in the main process and None in the others; it raises
    `EvaluationError` in all of them when an image has no prediction.
    """

    needs: ClassVar[str]  # the entry of a model's output that is evaluated
    tasks: ClassVar[tuple[str, ...]] = ()  # of the results; (): not known before
    _coverage: Coverage

    def image_of(self, item: Sample) -> Any:
        """The image of a model's input, as `_coverage` knows it."""
        return item["image_id"]

    def truth_files(self, record: Sample) -> Labels:
        """The label files that `match` reads for an image of the dataset; see `check_records`."""
        return ()

    def predicted(self, output: Output) -> Any:
        """Copy what `match` needs to the CPU; EvaluationError if it does not fit the dataset.

        Maps must be copies: the model may reuse its memory, and Detectron2's evaluators write to
        them. Masks of instances, which are large, need not be.
        """
        raise NotImplementedError

    def extract(self, item: Sample, output: Output) -> Any:
        """Count the image as evaluated; return `image_of` the input, `predicted` of the output."""
        image = self.image_of(item)
        self._coverage.add(image)
        with errors_name(f"image {image}"):
            return image, self.predicted(output)

    @abstractmethod
    def match(self, prediction: Prediction) -> Match:
        """Read the ground truth of an image and compare; EvaluationError if they do not fit.

        It may run in any thread, and must not change the evaluator.
        """

    @abstractmethod
    def update(self, match: Match) -> None:
        """Add the counts of one image; the order of images makes no difference."""

    def quality(self, match: Match) -> float | None:
        """The quality of a single image, 0..1, to find the best and the worst; None: not known."""
        return None

    def as_output(self, prediction: Prediction) -> Output:
        """The extracted prediction as a model's output, for pictures; where `quality` is known."""
        raise NotImplementedError

    def process(self, inputs: list[Sample], outputs: list[Output]) -> None:
        """Extract, match and update each image."""
        for item, output in zip(inputs, outputs, strict=True):
            self.update(self.match(self.extract(item, output)))

    def limit(self, number: int) -> None:
        """Until `reset`, evaluate `number` images only: a trial, which gives no results."""
        self._coverage.limit(number)

    def _required(self, output: Output) -> Any:
        value = output.get(self.needs)
        if value is None:
            raise EvaluationError(f'the model\'s output has no "{self.needs}"')
        return value

    def _sum(self, *counts: np.ndarray) -> tuple[list[np.ndarray], int]:
        """Sum int64 counts over all processes; return the sums and the number of images."""
        *sums, seen = sum_over_processes(*counts, self._coverage.seen)
        return sums, self._coverage.require_all(seen)


@contextmanager
def errors_name(what: object) -> Iterator[None]:
    """Put an image or a file in front of the messages of `EvaluationError`s raised inside."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"{what}: {error}") from error


def require_size(
    found: Sequence[int],
    expected: Sequence[int],
    what: object = "the prediction",
    other: str = "the ground truth",
) -> None:
    """Raise `EvaluationError` unless `what` has the size (height, width) of `other`."""
    if tuple(found) != tuple(expected):
        raise EvaluationError(
            f"{what} is {tuple(found)}, {other} {tuple(expected)} (height, width): predict at the "
            "size of the image file"
        )


class Detection(NamedTuple):
    """A predicted instance, on the CPU."""

    category: int
    score: float
    pixels: np.ndarray  # (H, W), the mask, bool, or a map of ids
    box: np.ndarray  # (4,) float32: x0, y0, x1, y1 in pixels, right and bottom exclusive
    number: int | None = None  # the id whose pixels are the mask, in a map

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return self.pixels if self.number is None else self.pixels == self.number


def predicted_instances(
    output: Output, categories: Sequence[int] | Mapping[int, int]
) -> list[Detection]:
    """The "instances" of a model's output, copied from the GPU; none where it has none.

    Of masks that are segments of the output's panoptic map, the map alone is copied.

    Args:
        output: "instances" has `pred_masks` (N, H, W), `pred_classes`, `scores` and, maybe,
            `pred_boxes`, which are else those of the masks, and `panoptic_ids` of "panoptic_seg".
        categories: of the detections, by the class of the instances.

    Raises:
        EvaluationError: a class is none of them; a score or a box is not finite.
    """
    instances = output.get("instances")
    if instances is None or not len(instances):
        return []
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    masks = instances.pred_masks
    if masks.dtype != torch.bool:
        masks = masks.to(torch.uint8) > 0  # as Detectron2: below 1 is outside
    has_boxes = instances.has("pred_boxes")
    boxes = instances.pred_boxes if has_boxes else BitMasks(masks).get_bounding_boxes()
    numbers: list[int | None] = [None] * len(classes)
    if waits(masks) and instances.has("panoptic_ids"):
        numbers = instances.panoptic_ids.tolist()
        panoptic = output["panoptic_seg"][0].to(torch.int32).cpu().numpy()
        pixels = [panoptic] * len(classes)
    else:
        pixels = list(masks.cpu().numpy())
    rows = zip(classes, scores, pixels, boxes.tensor.cpu().numpy().copy(), numbers, strict=True)
    found = []
    for category, score, image, box, number in rows:
        if not 0 <= category < len(categories):
            raise EvaluationError(
                f"a predicted instance has class {category}, outside the classes "
                f"0..{len(categories) - 1}"
            )
        if not np.isfinite([score, *box]).all():
            raise EvaluationError("the score or the box of a predicted instance is not finite")
        found.append(Detection(categories[category], score, image, box, number))
    return found


@dataclass(eq=False)
class ThreadedEvaluator(DatasetEvaluator):
    """Streaming evaluators whose `match` runs in a few threads, while the network goes on.

    NumPy and Pillow release Python's lock where the time goes. One job is one image with all its
    evaluators, so that a label which two of them need is decoded once. Results do not depend on the
    number of threads (0: the network waits for one): counts are updated by the calling thread, in
    the order of the images. At most `num_threads` + 1 images wait in memory. An error is raised by
    the next call.

    `on_image` gets each input, its prediction and its quality in 0..1, of the first evaluator that
    knows one, in order, in the calling thread.
    """

    evaluators: Sequence[StreamingEvaluator[Any, Any]]
    _: KW_ONLY
    num_threads: int
    on_image: Callable[[Sample, Output, float], None] | None = None
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)
    _waiting: deque[tuple[Sample, list[Any], Future[list[Any]]]] = field(
        default_factory=deque, init=False
    )

    def reset(self) -> None:
        """Forget all images."""
        self.close()
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[Sample], outputs: list[Output]) -> None:
        """Extract predictions; returns before they are matched, unless too many are waiting."""
        for item, output in zip(inputs, outputs, strict=True):
            predictions = [each.extract(item, output) for each in self.evaluators]
            if self._pool is None:
                # glibc makes one memory arena a thread, which keeps what its images took.
                with suppress(OSError, AttributeError, TypeError):  # another C library
                    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
                self._pool = ThreadPoolExecutor(max(1, self.num_threads), "evaluation")
            job = self._pool.submit(self._match, predictions)
            self._waiting.append((item, predictions, job))
            while len(self._waiting) > self.num_threads or (
                self._waiting and self._waiting[0][2].done()
            ):
                self._finish_first()

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Wait for all images, then return the results of all evaluators; None but in rank 0."""
        try:
            while self._waiting:
                self._finish_first()
        finally:
            self.close()
        results: dict[str, dict[str, Any]] = {}
        for evaluator in self.evaluators:  # all processes exchange counts in each of them
            for task, numbers in (evaluator.evaluate() or {}).items():
                if task in results:
                    raise EvaluationError(f"two evaluators report {task}: leave one out")
                results[task] = numbers
        return results or None

    def close(self) -> None:
        """End the threads; images that still wait are dropped."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _match(self, predictions: list[Any]) -> list[Any]:
        pairs = zip(self.evaluators, predictions, strict=True)
        return [evaluator.match(prediction) for evaluator, prediction in pairs]

    def _finish_first(self) -> None:
        item, predictions, job = self._waiting.popleft()
        matches = job.result()
        for evaluator, match in zip(self.evaluators, matches, strict=True):
            evaluator.update(match)
        if self.on_image is None:
            return
        for evaluator, prediction, match in zip(self.evaluators, predictions, matches, strict=True):
            quality = evaluator.quality(match)
            if quality is not None:
                self.on_image(item, evaluator.as_output(prediction), quality)
                return
