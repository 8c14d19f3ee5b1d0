"""What the writers of prediction files have in common.

A writer is an evaluator that measures nothing: `extract` moves a prediction off the GPU, `match`
encodes it and writes the files of the image (in any thread), `update` keeps the entries of JSON
files, which the main process writes at the end.

A folder holds one evaluation. `reset`, with which an evaluation begins, removes the files that an
earlier one of the same dataset has written there, finished or not; it refuses a folder with any
other file, because the official scripts would find that too, and then removes nothing.
"""

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.distributed import in_main_process, sum_over_processes
from panoptic_dl.core.errors import EvaluationError, name_unwritable
from panoptic_dl.core.files import atomic_write, temporary_of
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, predicted_instances
from panoptic_dl.evaluation.panoptic import predicted_panoptic
from panoptic_dl.evaluation.semantic import predicted_labels
from panoptic_dl.predictions.dataset import PredictedDataset, Reader

logger = logging.getLogger(__name__)

Written = tuple[Any, Sequence[Sequence[dict[str, Any]]]]
"""An image's id, and its entries in each of a writer's JSON files."""
Entries = list[dict[Any, list[str]]]
"""For each JSON file the entries of each image, as JSON."""


class PredictionWriter(StreamingEvaluator[tuple[Any, Any], Written]):
    """A writer of one kind of predictions for the images of `dataset`, all below `folder`.

    `image_files` and `json_files` are the files of these names; `folders` are made.
    """

    image_name: str | None = None  # of each image's file, in which {} is its stem; None: none
    json_names: Sequence[str] = ()  # of the JSON files, in which {} is the split
    json_frame = ("[", "]")  # what stands around their entries

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """Set the names only; EvaluationError where two images would have one file."""
        self.dataset, self.folder = dataset, folder
        self.image_files: dict[Hashable, Path] = {}
        if self.image_name is not None:
            owners: dict[str, Hashable] = {}
            for image, stem in dataset.images.items():
                if (owner := owners.setdefault(stem, image)) != image:
                    raise EvaluationError(
                        f"images {owner} and {image} of {dataset.name} are both called {stem}: "
                        f"predictions of evaluation.save={folder.name} would have one file; rename "
                        "one of them"
                    )
                self.image_files[image] = folder / self.image_name.format(stem)
        self.json_files = [folder / name.format(dataset.split) for name in self.json_names]
        self._own_files = {*self.image_files.values(), *self.json_files}
        self.folders = {folder, *(file.parent for file in self._own_files)}
        self._coverage = Coverage(dataset.images, dataset.name)
        self._num_given = np.zeros(1, dtype=np.int64)  # outputs that had what is written
        self._entries: Entries | None = None  # None: not ready

    def is_own(self, file: Path) -> bool:
        """Whether a file in the folder is the writer's, if it is not temporary."""
        return file in self._own_files

    def reset(self) -> None:
        """Begin an evaluation, in all processes: `clear` the folder."""
        self._coverage.reset()
        self._num_given[0] = 0
        in_main_process(self.clear, f"save predictions in {self.folder}")
        self._entries = [{} for _ in self.json_files]

    def clear(self) -> None:
        """Remove the files of an earlier evaluation, in this process, and make the folders.

        EvaluationError, and nothing is removed, where a file is not the writer's.
        """
        for file in self.own_files():
            with name_unwritable(file):
                file.unlink()
        for folder in sorted(self.folders):
            with name_unwritable(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def own_files(self) -> list[Path]:
        """The files in the folder; EvaluationError for one that is not the writer's."""
        files = [f for f in sorted(self.folder.rglob("*")) if f.is_symlink() or not f.is_dir()]
        for file in files:
            if not self.is_own(file.with_name(temporary_of(file.name) or file.name)):
                raise EvaluationError(
                    f"{file} is not a file of predictions for {self.dataset.name} that this "
                    "program writes: remove it, or save predictions in another folder"
                )
        return files

    def image_of(self, item: dict[str, Any]) -> Hashable:
        return self.dataset.image_of(item)

    def predicted(self, output: dict[str, Any]) -> Any:
        """Copy to the CPU what is written; no instances where the output has none.

        A panoptic map (see `predicted_panoptic`), classes of pixels (see `predicted_labels`), or
        detections whose category is the id in the dataset.
        """
        if self._entries is None:
            raise EvaluationError(f"call reset() first: it makes {self.folder} ready")
        if output.get(self.needs) is not None:
            self._num_given += 1
        elif self.needs != "instances":
            raise EvaluationError(
                f'the model\'s output has no "{self.needs}" to save; do not save this kind, or let '
                "the model predict it"
            )
        dataset = self.dataset
        if self.needs == "panoptic_seg":
            return predicted_panoptic(
                output["panoptic_seg"],
                contiguous_ids=dataset.contiguous_ids,
                things=dataset.things or (),
                label_divisor=dataset.label_divisor,
            )
        if self.needs == "sem_seg":
            return predicted_labels(output["sem_seg"], len(dataset.dataset_ids))
        return predicted_instances(output, dataset.instance_ids)

    def update(self, match: Written) -> None:
        """Keep the entries of the JSON files, if the format has any, as text."""
        image, entries = match
        assert self._entries is not None
        for texts, each in zip(self._entries, entries, strict=True):
            texts[image] = [json.dumps(entry, allow_nan=False) for entry in each]

    def evaluate(self) -> dict[str, Any]:
        """Finish the files, in all processes; EvaluationError in all where an image is missing."""
        seen, given = sum_over_processes(self._coverage.seen, self._num_given)  # waits for all
        self._coverage.require_all(seen)
        if not given[0] and comm.is_main_process():
            logger.warning(
                'No output had "%s": the files in %s say that nothing was found anywhere. Does the '
                "model predict them?",
                self.needs,
                self.folder,
            )
        gathered = comm.gather(self._entries)
        in_main_process(lambda: self._finish(gathered), f"finish the predictions in {self.folder}")
        return {}

    def _finish(self, entries: list[Entries]) -> None:
        """Write the JSON files, from the entries of all processes."""
        missing = next((f for f in self.image_files.values() if not f.exists()), None)
        if missing is not None:
            raise EvaluationError(
                f"{missing} is not there though a process has written it: all processes must write "
                "to one disk; name a folder that all machines share"
            )
        for number, file in enumerate(self.json_files):
            of_file = {image: texts for each in entries for image, texts in each[number].items()}
            write_entries(file, of_file, self.json_frame)


Formats = dict[str, tuple[Callable[..., Reader], type[PredictionWriter]]]
"""The reader and the writer of each kind of predictions."""


def write_entries(
    file: Path, entries: Mapping[Any, Sequence[str]], frame: Sequence[str] = ("[", "]")
) -> None:
    """Write a JSON file of each image's entries (JSON), a line each, sorted, in this frame."""
    texts = [text for image in sorted(entries) for text in entries[image]]
    lines = "".join(f"\n{text}," for text in texts).removesuffix(",")
    write_prediction(file, f"{frame[0]}{lines}\n{frame[1]}\n".encode())


def write_prediction(file: Path, data: bytes) -> None:
    """Write one of many files, atomically; EvaluationError if the disk refuses it."""
    with name_unwritable(file), atomic_write(file, sync=False) as temporary:
        temporary.write_bytes(data)


def write_png(file: Path, pixels: np.ndarray) -> None:
    """Write an image, (H, W) or (H, W, 3) uint8; EvaluationError if the disk refuses it."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    write_prediction(file, buffer.getvalue())
