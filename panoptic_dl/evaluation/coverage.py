"""Which images of a split have been evaluated: each must be, once, by one of the processes."""

from collections.abc import Hashable, Iterable

import numpy as np

from panoptic_dl.evaluation.figures import EvaluationError


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
