"""What writers of predictions have in common.

They are evaluators that measure nothing: `take` moves a prediction off the GPU, `compare` encodes
it and writes the files of the image (in any thread), `add` appends to a part of a JSON file.

A folder holds one evaluation. `reset`, with which an evaluation begins, removes the files that an
earlier one of the same dataset has written there, finished or not, so that evaluating again while
training overwrites cleanly; it refuses a folder with any other file, for scripts would find that,
too, and removes nothing then.

A JSON file from what several processes have written, image by image, in parts of their own.

A part has one line an image: the image as JSON, a tab, and the entries of the image as JSON with
tabs between them (JSON has no raw tabs). An image without entries has a line, too. Merging keeps a
few numbers an image in memory, and never a whole part.

Panoptic predictions in COCO's format, for COCO and Cityscapes alike.

    COCO:        panoptic_<split>_panoptic-dl_results.json and a folder of that name, <image>.png
    Cityscapes:  cityscapes_panoptic_<split>.json and a folder of that name, <image id>_panoptic.png

A pixel's segment is R + 256 G + 256^2 B, 0 where void; the JSON file says its category, an id of
the dataset. Shapes: H W pixels.

Semantic predictions on their way into files.

Shapes: K classes, H W pixels.
"""

import json
import logging
from abc import abstractmethod
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm

from panoptic_dl.core.distributed import in_first_process, sum_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import TEMPORARY, atomic_prediction_file, write_png, writing
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, naming
from panoptic_dl.evaluation.panoptic import NUM_IDS
from panoptic_dl.predictions.dataset import PredictedDataset


class JsonParts:
    """The entries of one JSON file on their way there.

    Attributes:
        file: the JSON file: `head`, entries with commas and line ends between them, `tail`.
    """

    def __init__(self, file: Path, head: str = "[", tail: str = "]") -> None:
        """Remember the names; nothing is read or written."""
        self.file, self._head, self._tail = file, head, tail
        self._prefix = f".{file.name}.part"

    def is_part(self, name: str) -> bool:
        """Whether a name is that of a part of this file."""
        return name.startswith(self._prefix) and name.removeprefix(self._prefix).isdigit()

    def append(self, image: Hashable, entries: Sequence[dict[str, Any]]) -> None:
        """Write the entries of one image to this process's part.

        Raises:
            EvaluationError: the disk refuses it.
            ValueError: a number is not finite, which JSON cannot say.
        """
        cells = [json.dumps(image), *(json.dumps(entry, allow_nan=False) for entry in entries)]
        part = self._part(comm.get_rank())
        with writing(part), part.open("ab") as stream:  # closing it makes a full disk speak
            stream.write(("\t".join(cells) + "\n").encode())

    def merge(self, images: Collection[Hashable]) -> None:
        """Write the file from the parts of all processes, sorted by image, and remove them.

        Args:
            images: that must be there.

        Raises:
            EvaluationError: one is not; the disk refuses the file.
        """
        parts = [self._part(rank) for rank in range(comm.get_world_size())]
        places = sorted(place for rank, part in enumerate(parts) for place in _lines(part, rank))
        found = {place[0] for place in places}
        missing = next((image for image in images if image not in found), None)
        if missing is not None:
            raise EvaluationError(
                f"the predictions of image {missing} are not in {self.file.parent}: all processes "
                "must write to one disk; name a folder that all machines share"
            )
        with atomic_prediction_file(self.file) as temporary, temporary.open("wb") as target:
            target.write(self._head.encode())
            separator = b"\n"
            streams = {}
            try:
                for _, rank, offset in places:
                    if rank not in streams:
                        streams[rank] = parts[rank].open("rb")
                    streams[rank].seek(offset)
                    for entry in streams[rank].readline().rstrip(b"\n").split(b"\t")[1:]:
                        target.write(separator + entry)
                        separator = b",\n"
            finally:
                for stream in streams.values():
                    stream.close()
            target.write(f"\n{self._tail}\n".encode())
        for part in parts:
            part.unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        return self.file.with_name(f"{self._prefix}{rank}")


def _lines(part: Path, rank: int) -> list[tuple[Any, int, int]]:
    """Image, rank and offset in bytes of each line; none without the file."""
    places = []
    if part.exists():
        offset = 0
        with part.open("rb") as stream:
            for line in stream:
                places.append((json.loads(line.partition(b"\t")[0]), rank, offset))
                offset += len(line)
    return places


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


@dataclass(frozen=True)
class PanopticTaken:
    """A panoptic map of one image, as `PanopticWriter.take` gets it."""

    image: Any
    panoptic: np.ndarray
    segments: list[dict[str, Any]] | None


class PanopticWriter(PredictionWriter[PanopticTaken, dict[str, Any]]):
    """Writes "panoptic_seg".

    That is (H, W) of category * label_divisor + instance, -1 where void, and None; or (H, W) ids, 0
    where void, and Detectron2's list of segments.
    """

    needs = "panoptic_seg"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """See `PredictionWriter`."""
        if dataset.cityscapes:  # where its script looks when it is not told
            name, suffix = f"cityscapes_panoptic_{dataset.split}", "_panoptic.png"
        else:
            name, suffix = f"panoptic_{dataset.split}_panoptic-dl_results", ".png"
        parts = JsonParts(folder / f"{name}.json", '{"annotations": [', "]}")
        super().__init__(dataset, folder, [parts])
        self._pictures = folder / name
        self._names = {image: stem + suffix for image, stem in dataset.images.items()}
        self._own = {f"{name}/{picture}" for picture in self._names.values()}
        self._contiguous = dataset.contiguous

    def folders(self) -> list[Path]:
        """That of the pictures."""
        return [self._pictures]

    def is_own(self, name: str) -> bool:
        """A picture of one of the images."""
        return name in self._own

    def expected(self) -> list[Path]:
        """A picture of each image."""
        return [self._pictures / name for name in self._names.values()]

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> PanopticTaken:
        """Move the map to the CPU."""
        image = self.begin(item, output, required=True)
        panoptic, segments = output["panoptic_seg"]
        return PanopticTaken(image, panoptic.cpu().numpy().copy(), segments)

    def compare(self, taken: PanopticTaken) -> dict[str, Any]:
        """Write the picture; return the image's entry of the JSON file."""
        with naming(taken.image):
            if taken.segments is None:
                ids, categories = self._from_map(taken.panoptic)
            else:
                ids, categories = self._from_list(taken.panoptic, taken.segments)
        name = self._names[taken.image]
        write_png(self._pictures / name, id_colors(ids))
        segments = [
            {"id": number, "category_id": self.dataset.dataset_ids[category]}
            for number, category in categories.items()
        ]
        return {"image_id": taken.image, "file_name": name, "segments_info": segments}

    def add(self, compared: dict[str, Any]) -> None:
        """Write the entry."""
        self.parts[0].append(compared["image_id"], [compared])

    def _from_map(self, panoptic: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Ids, (H, W) with 0 for void, and the contiguous category of each."""
        divisor, num_classes = self.dataset.label_divisor, len(self.dataset.dataset_ids)
        lowest, highest = int(panoptic.min()), int(panoptic.max())
        if not -1 <= lowest <= highest < num_classes * divisor:
            odd = lowest if lowest < -1 else highest
            raise EvaluationError(
                f"predicted panoptic id {odd} is neither void (-1) nor one of {num_classes} "
                f"classes * {divisor} + instance"
            )
        if highest + 1 < NUM_IDS:
            ids = panoptic.astype(np.int64) + 1
            listed = np.flatnonzero(np.bincount(ids.reshape(-1)))
            listed = listed[listed > 0]
            labels = listed - 1
        else:  # too large for three colours: count
            labels = np.unique(panoptic)
            labels = labels[labels >= 0]
            listed = np.arange(1, len(labels) + 1)
            ids = np.where(panoptic < 0, 0, np.searchsorted(labels, panoptic) + 1)
        return ids, dict(zip(listed.tolist(), (labels // divisor).tolist(), strict=True))

    def _from_list(
        self, panoptic: np.ndarray, segments: list[dict[str, Any]]
    ) -> tuple[np.ndarray, dict[int, int]]:
        categories: dict[int, int] = {}
        for segment in segments:
            number, category = int(segment["id"]), int(segment["category_id"])
            if segment.get("isthing") is None:  # Detectron2: an id of the dataset
                category = self._contiguous.get(category, category)
            if category not in self.dataset.dataset_ids:
                raise EvaluationError(
                    f"predicted segment {number}: category {category} is outside the classes "
                    f"0..{len(self.dataset.dataset_ids) - 1}"
                )
            if not 0 < number < NUM_IDS or number in categories:
                raise EvaluationError(
                    f"predicted segment {number} is listed twice, or outside 1..{NUM_IDS - 1}"
                )
            categories[number] = category
        odd = sorted((set(np.unique(panoptic).tolist()) - {0}) ^ set(categories))
        if odd:
            place = "list but not in the map" if odd[0] in categories else "map but not in the list"
            raise EvaluationError(f"predicted segment {odd[0]} is in the {place}")
        return panoptic.astype(np.int64), categories


def id_colors(ids: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 of ids (H, W)."""
    return np.stack((ids & 255, (ids >> 8) & 255, (ids >> 16) & 255), axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class TakenClasses:
    """Classes of one image, (H, W) int16, K where there is none."""

    image: Any
    classes: np.ndarray
