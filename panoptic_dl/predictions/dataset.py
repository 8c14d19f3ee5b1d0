"""The dataset of prediction files, and what the readers and writers of all formats share.

Contiguous categories, 0..K-1, are those of models; dataset ids are those of files.

A writer is an evaluator that measures nothing: `extract` moves a prediction off the GPU, `match`
encodes it and writes the files of the image (in any thread), `update` keeps the entries of JSON
files, which the main process writes at the end. A folder holds one evaluation. `reset`, with which
an evaluation begins, removes the files that an earlier one of the same dataset has written there,
finished or not; it refuses a folder with any other file, because the official scripts would find
that too, and then removes nothing.
"""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cityscapesscripts.helpers.labels import name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.distributed import in_main_process, sum_over_processes
from panoptic_dl.core.errors import EvaluationError, name_unwritable
from panoptic_dl.core.files import atomic_write, read_json, temporary_of
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, image_id
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, predicted_instances
from panoptic_dl.evaluation.panoptic import predicted_panoptic
from panoptic_dl.evaluation.semantic import predicted_labels

logger = logging.getLogger(__name__)

NUMBER = (int, float)  # types in JSON
OUTPUT_KEYS = {"panoptic": "panoptic_seg", "instances": "instances", "semantic": "sem_seg"}
"""The entry of a model's output that each kind of predictions is."""
KINDS = tuple(OUTPUT_KEYS)
READ_AGAIN = "unpack or download it again, or predict again"

Reader = Callable[[Any, tuple[int, int]], Any]
"""Returns the prediction of one kind for an image, by its id and size (H, W).

Panoptic: a map and a list or None, see `PredictionFolder`. Semantic: (H, W) int64 classes, -1 where
there is none. Instances, in the order of the file: see `make_instances`; scores are exactly as
written.
"""


@dataclass(frozen=True)
class PredictedDataset:
    """A dataset as prediction files see it."""

    name: str  # in Detectron2's catalogs
    is_cityscapes: bool  # files are those of Cityscapes' scripts; else those of COCO
    split: str  # "val2017", "val", for names of files
    images: Mapping[Hashable, str]  # stem of the file names, by the image's id (`image_of`)
    dataset_ids: Mapping[int, int]  # of each contiguous category
    things: frozenset[int] | None  # contiguous categories; None: of the semantic task
    instance_ids: Mapping[int, int]  # dataset id of each class of "instances"
    label_divisor: int  # of panoptic maps

    @property
    def contiguous_ids(self) -> dict[int, int]:
        """Contiguous category of each dataset id."""
        return {dataset_id: category for category, dataset_id in self.dataset_ids.items()}

    @property
    def hint(self) -> str:
        """What to check when a category is unknown."""
        if self.is_cityscapes:
            return (
                "files hold Cityscapes' label ids (7 road, 26 car), not train ids (0 road, 13 car)"
            )
        return "files hold the dataset's own ids, with their gaps, not classes counted from 0"

    def image_of(self, item: Mapping[str, Any]) -> Hashable:
        """The id of the image of a model's input: Cityscapes' id, or COCO's number."""
        return image_id(item["file_name"]) if self.is_cityscapes else item["image_id"]  # type: ignore[no-any-return]

    @cached_property
    def _spellings(self) -> dict[Hashable, set[Hashable]]:
        """The images that each number, and each name of an image file, may mean."""
        found: dict[Hashable, set[Hashable]] = defaultdict(set)
        for image, stem in self.images.items():
            for spelling in (stem, _as_number(image)):
                found[spelling].add(image)
        return found

    def find_image(self, entry: Mapping[str, Any]) -> Hashable | None:
        """The image that an entry of a prediction file means; None if it is none of the dataset.

        Exact ids come first. Exporters also write the number 139 as "139", "000000000139" or 139.0,
        and a number for a text; Detectron2's semantic files name the image's file and no id.
        EvaluationError where the id fits two images.
        """
        given = entry.get("image_id")
        if given in self.images:
            return given  # type: ignore[no-any-return]
        name = Path(entry["file_name"]).stem if given is None else given
        name = image_id(name) if self.is_cityscapes and isinstance(name, str) else name
        spellings = {name, _as_number(name)} & self._spellings.keys()
        fitting = {image for spelling in spellings for image in self._spellings[spelling]}
        if len(fitting) > 1:
            both = " and ".join(map(repr, sorted(fitting, key=str)[:2]))
            raise EvaluationError(
                f"the image_id {name!r} of a prediction may mean the images {both} of {self.name}: "
                "write ids as the dataset does"
            )
        return next(iter(fitting), None)


def _as_number(image: Hashable) -> Hashable:
    """The number that is written as a text, with zeros before it or not; else what is given."""
    is_number = isinstance(image, str) and image.isascii() and image.isdigit()
    return int(image) if is_number else image  # type: ignore[call-overload, no-any-return]


def look_up(dataset: str, records: Sequence[Mapping[str, Any]] | None = None) -> PredictedDataset:
    """Look up a dataset of Detectron2's catalogs, or those of its images that are predicted.

    EvaluationError unless its metadata has `gt_dir` (Cityscapes), `panoptic_json` or `json_file`
    (COCO, and custom datasets in its format).
    """
    metadata = MetadataCatalog.get(dataset)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    is_cityscapes = metadata.get("gt_dir") is not None
    json_file = metadata.get("panoptic_json") or metadata.get("json_file")
    if is_cityscapes:
        split = Path(metadata.gt_dir).name
        dataset_ids = {label.trainId: label.id for label in EVALUATED}
        instance_ids = {i: name2label[name].id for i, name in enumerate(metadata.thing_classes)}
    elif json_file:
        stem = Path(json_file).stem
        split = re.sub("^(panoptic|instances|image_info)_", "", stem)
        instance_ids = {category: dataset_id for dataset_id, category in (things or {}).items()}
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id", {})
        dataset_ids = {category: dataset_id for dataset_id, category in stuff.items()}
        dataset_ids |= instance_ids
    else:
        raise EvaluationError(
            f"no format of prediction files is known for {dataset}: its metadata must have gt_dir "
            "(Cityscapes), panoptic_json or json_file (COCO)"
        )
    images: dict[Hashable, str] = {}
    for record in DatasetCatalog.get(dataset) if records is None else records:
        if is_cityscapes:
            image = stem = image_id(record["file_name"])
        else:
            image, stem = record["image_id"], Path(record["file_name"]).stem
        images[image] = stem
    return PredictedDataset(
        name=dataset,
        is_cityscapes=is_cityscapes,
        split=split,
        images=images,
        dataset_ids=dataset_ids,
        things=None if things is None else frozenset(things.values()),
        instance_ids=instance_ids,
        label_divisor=metadata.label_divisor,
    )


def path_inside(root: Path, base: Path, name: str, source: Path) -> Path:
    """The file that `name` in `source` means, relative to `base`.

    EvaluationError outside of `root`: a downloaded file must not make us read any other.
    """
    file = Path(os.path.normpath(base.absolute() / name))
    if os.path.isabs(name) or not file.is_relative_to(os.path.normpath(root.absolute())):
        raise EvaluationError(
            f"{source} names the file {name}, which is not inside {root}: write names relative to "
            "the folder of that file"
        )
    return file


def read_predictions(file: Path) -> Any:
    """Read a JSON file of predictions; EvaluationError if it cannot be read, or is none."""
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"cannot read {file} ({error}); {READ_AGAIN}") from error


def require_entries(
    file: Path, content: Any, types: Mapping[str, tuple[type, ...]]
) -> list[dict[str, Any]]:
    """The content of a JSON file; EvaluationError unless it is a list of objects of these types."""
    if not isinstance(content, list):
        raise EvaluationError(
            f"{file} holds no list of predictions: is it an annotation file? {READ_AGAIN}"
        )
    for position, entry in enumerate(content):
        for key, allowed in types.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise EvaluationError(
                    f'{file}: entry {position} has no valid "{key}"; write it in COCO\'s format of '
                    "results, with a number or text as the format says"
                )
    return content


def entries_by_image(
    dataset: PredictedDataset, file: Path, content: Any, types: Mapping[str, tuple[type, ...]]
) -> dict[Hashable, list[dict[str, Any]]]:
    """Entries of a JSON file by image; those of images that the dataset lacks are warned of.

    `types` are those of what entries have besides their image. EvaluationError for what is no list
    of such entries, or has none of the dataset's images.
    """
    found: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    unknown = set()
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "image_id" not in first and "file_name" in first:
        types = {"file_name": (str,), **types}
    else:
        types = {"image_id": (*NUMBER, str), **types}
    for entry in require_entries(file, content, types):
        try:
            image = dataset.find_image(entry)
        except EvaluationError as error:
            raise EvaluationError(f"{file}: {error}") from error
        if image is None:
            unknown.add(entry.get("image_id", entry.get("file_name")))
        else:
            found[image].append(entry)
    if unknown:
        example = sorted(unknown, key=str)[0]
        if not found:
            raise EvaluationError(
                f"{file} has predictions for other images than those of {dataset.name}, such as "
                f"{example!r}, where the dataset has {next(iter(dataset.images))!r}; name "
                "predictions of this split"
            )
        logger.warning(
            f"{file} has predictions for {len(unknown)} images that are not in {dataset.name}, "
            f"such as {example!r}; they are left out"
        )
    return dict(found)


def make_instances(
    masks: list[np.ndarray],
    classes: list[int],
    scores: list[float],
    size: tuple[int, int],
    *,
    boxes: list[list[float]] | None = None,
) -> Instances:
    """Detectron2's `Instances` of an image of the size (height, width), maybe none.

    `boxes` are left, top, width and height in pixels; None: around the masks.
    """
    pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    if boxes is None:
        pred_boxes = BitMasks(pred_masks).get_bounding_boxes()
    else:
        corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        pred_boxes = Boxes(corners)
    return Instances(
        size,
        pred_masks=pred_masks,
        pred_boxes=pred_boxes,
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float64),
    )


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
