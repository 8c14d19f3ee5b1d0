"""What writers of predictions have in common.

They are evaluators that measure nothing: `take` moves a prediction off the GPU, `compare` encodes
it and writes the files of the image (in any thread), `add` appends to a part of a JSON file.

A folder holds one evaluation. `reset`, with which an evaluation begins, removes the files that an
earlier one of the same dataset has written there, finished or not, so that evaluating again while
training overwrites cleanly; it refuses a folder with any other file, for scripts would find that,
too, and removes nothing then.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm

from panoptic_dl.evaluation.coverage import Coverage
from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.processes import sum_over_processes
from panoptic_dl.evaluation.stream import StreamingEvaluator
from panoptic_dl.prediction_files.dataset import PredictedDataset
from panoptic_dl.prediction_files.files import TEMPORARY, writing
from panoptic_dl.prediction_files.first_process import in_first_process
from panoptic_dl.prediction_files.parts import JsonParts

logger = logging.getLogger(__name__)

Taken = TypeVar("Taken")
Written = TypeVar("Written")


class PredictionWriter(StreamingEvaluator[Taken, Written]):
    """A writer of one kind of predictions.

    Attributes:
        dataset: what is predicted.
        folder: where all files of the kind lie.
        parts: JSON files that processes write together.
    """

    def __init__(
        self, dataset: PredictedDataset, folder: Path, parts: Sequence[JsonParts] = ()
    ) -> None:
        """Remember the names; nothing is read or written before `reset`."""
        self.dataset, self.folder, self.parts = dataset, folder, tuple(parts)
        self._coverage = Coverage(dataset.images, dataset.name)
        self._given = np.zeros(1, dtype=np.int64)  # outputs that had what is written
        self._is_ready = False

    @abstractmethod
    def folders(self) -> list[Path]:
        """The folders that the writer needs."""

    @abstractmethod
    def is_own(self, name: str) -> bool:
        """Whether a file, besides JSON files and parts, is the writer's.

        Args:
            name: relative to `folder`, with / between folders.
        """

    def expected(self) -> list[Path]:
        """Files that must be there at the end, besides JSON files."""
        return []

    def reset(self) -> None:
        """Begin an evaluation: clear the folder. All processes must call this.

        Raises:
            EvaluationError: in all of them, when a file in the folder is not the writer's.
        """
        self._coverage.reset()
        self._given[0] = 0
        in_first_process(self.clear, f"save predictions in {self.folder}")
        self._is_ready = True

    def evaluate(self) -> dict[str, Any]:
        """Finish the files. All processes must call this.

        Returns:
            Nothing, for nothing is measured.

        Raises:
            EvaluationError: in all processes, when an image has no prediction, or the first process
                cannot write.
        """
        seen, given = sum_over_processes(self._coverage.seen, self._given)  # waits for all
        self._coverage.require_all(seen)
        if not given[0] and comm.is_main_process():
            logger.warning(
                'No output had "%s": the files in %s say that nothing was found anywhere. Does the '
                "model predict them?",
                self.needs,
                self.folder,
            )
        in_first_process(self._finish, f"finish the predictions in {self.folder}")
        return {}

    def begin(self, item: dict[str, Any], output: dict[str, Any], *, required: bool) -> Any:
        """Count the image as seen; return what names it.

        Args:
            item, output: as in `take`.
            required: whether the output must have what is written.

        Raises:
            EvaluationError: the image is not of the dataset or comes again; the key is not there.
        """
        if not self._is_ready:
            raise EvaluationError(f"call reset() first: it makes {self.folder} ready")
        image = self.dataset.image(item)
        self._coverage.add(image)
        if output.get(self.needs) is not None:
            self._given += 1
        elif required:
            raise EvaluationError(
                f'image {image}: the model\'s output has no "{self.needs}" to save; do not save '
                "this kind, or let the model predict it"
            )
        return image

    def clear(self) -> None:
        """Remove the files of an earlier evaluation, in this process, and make the folders.

        Raises:
            EvaluationError: a file in the folder is not the writer's; then none is removed.
        """
        own = []
        if self.folder.exists():
            for file in sorted(self.folder.rglob("*")):
                if file.is_dir() and not file.is_symlink():
                    continue
                if not self._is_own_or_part(file):
                    raise EvaluationError(
                        f"{file} is not a file of predictions for {self.dataset.name} that this "
                        "program writes: remove it, or save predictions in another folder"
                    )
                own.append(file)
        for file in own:
            with writing(file):
                file.unlink()
        for folder in self.folders():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def _is_own_or_part(self, file: Path) -> bool:
        name = file.name
        for parts in self.parts:
            if file.parent == parts.file.parent and parts.is_part(name):
                return True
        if name.startswith(".") and name.endswith(TEMPORARY):
            own, dot, process = name[1 : -len(TEMPORARY)].rpartition(".")
            if dot and process.isdigit():
                file = file.with_name(own)
        if any(file == parts.file for parts in self.parts):
            return True
        return self.is_own(file.relative_to(self.folder).as_posix())

    def _finish(self) -> None:
        missing = next((file for file in self.expected() if not file.exists()), None)
        if missing is not None:
            raise EvaluationError(
                f"{missing} is not there though a process has written it: all processes must write "
                "to one disk; name a folder that all machines share"
            )
        for parts in self.parts:
            parts.merge(self.dataset.images)
