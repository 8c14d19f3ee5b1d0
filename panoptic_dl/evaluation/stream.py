"""What streaming evaluators have in common: three steps an image, of which the costly one is free.

take     what is needed of a prediction, off the GPU           in the thread of the network
compare  read the truth, compare; changes nothing               in any thread (`beside`)
add      a few integers to the counts                           one image after another
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from detectron2.evaluation import DatasetEvaluator

from panoptic_dl.evaluation.coverage import Coverage
from panoptic_dl.evaluation.figures import EvaluationError

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
