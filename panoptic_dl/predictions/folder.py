"""A folder of predictions: the writers that fill it, and `predictions=FOLDER`, which reads it.

Files are found under whatever names their authors gave them:

    COCO and Cityscapes  panoptic/*.json
    COCO                 instances/*.json, semantic/*.json
    Cityscapes           <image id>*.txt in instances/, <image id>*.png in semantic/, at any depth

All may also lie in the folder itself. What JSON files there are of, their content says:
Detectron2, mmdetection and Panoptic-DeepLab each have names of their own. Of Cityscapes' files
texts are instances, and PNGs beside them masks; without texts, and without a panoptic file that
owns them, PNGs are label ids.
"""

import codecs
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import local_path, near_names, require_file
from panoptic_dl.core.images import read_size
from panoptic_dl.predictions import cityscapes, coco
from panoptic_dl.predictions.cityscapes import FilesByImage
from panoptic_dl.predictions.dataset import (
    KINDS,
    OUTPUT_KEYS,
    PredictedDataset,
    PredictionWriter,
    Reader,
    look_up,
)

CITYSCAPES = coco.PANOPTIC | cityscapes.FORMATS
SUFFIXES = {"instances": ".txt", "semantic": ".png"}  # of Cityscapes' files
BOXES = "boxes"  # of instances, without their masks
FOLDERS = {kind: (kind,) for kind in KINDS} | {"instances": ("instances", "instance")}
IMAGE_ID = re.compile(r"[^_]+_[^_]+_\d+")  # <city>_<sequence>_<frame>


def prediction_writers(
    dataset: str,
    kinds: str | Sequence[str],
    folder: str | Path,
    records: Sequence[Mapping[str, Any]] | None = None,
) -> list[PredictionWriter]:
    """Make an evaluator for each kind, which measures nothing and writes `<folder>/<kind>/`.

    Args:
        dataset: see `look_up`.
        kinds: one or several of "panoptic", "instances" and "semantic"; outputs need
            "panoptic_seg", may have "instances", need "sem_seg".
        folder: made when an evaluation begins. What an earlier one has written for this dataset is
            replaced then; other files below `<folder>/<kind>` are an error.
        records: of the images that will be predicted, for a trial; None: all of the dataset.

    Raises ValueError: a kind is unknown, or the dataset has no such ground truth.
    """
    wanted = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    predicted = look_up(dataset, records) if wanted else None
    writers = []
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"cannot save {kind!r}: choose from {', '.join(KINDS)}")
        assert predicted is not None
        if kind != "semantic" and predicted.things is None:
            raise ValueError(
                f"cannot save {kind} of {dataset}, a dataset of the semantic task: save semantic, "
                "or choose task=panoptic"
            )
        formats = CITYSCAPES if predicted.is_cityscapes else coco.FORMATS
        writers.append(formats[kind][1](predicted, Path(folder) / kind))
    return writers


def clear_other_kinds(dataset: str, kinds: Sequence[str], folder: Path) -> None:
    """Remove what an earlier evaluation has saved of other kinds, which is another model's.

    In one process; EvaluationError where a folder of another kind has files that are not ours.
    """
    if look_up(dataset).things is None:
        return  # of the semantic task: there is but one kind
    others = [kind for kind in KINDS if kind not in kinds and (folder / kind).exists()]
    for writer in prediction_writers(dataset, others, folder):
        writer.clear()


class PredictionFolder:
    """Called with a model's input, returns what the model would: predictions from files.

    JSON files are read once, pictures and texts when their image comes. `kinds` are those found,
    of "panoptic", "instances" and "semantic".
    """

    def __init__(self, dataset: str, folder: str | Path, kinds: Collection[str] = KINDS) -> None:
        """Look for predictions of a dataset, and read JSON files.

        `folder` holds `<kind>/`, or the files themselves. A dataset of the semantic task takes
        "semantic" only.

        Raises EvaluationError: there is nothing, or several files could be meant; one is torn.
        """
        self._dataset = predicted = look_up(dataset)
        root = local_path(folder, "predictions")
        if not root.is_dir():
            near = near_names(root.parent, root.name)
            raise EvaluationError(
                f"there is no folder {root}{near}: name that of saved predictions"
            )
        self._readers: dict[str, Reader] = {}
        for kind in KINDS if predicted.things is not None else ("semantic",):
            if kind in kinds and (reader := _make_reader(predicted, root, kind)) is not None:
                self._readers[kind] = reader
        self.kinds = tuple(self._readers)
        if not self.kinds:
            raise EvaluationError(_nothing_found(predicted, root))

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Read the predictions of one image.

        Args:
            item: a model's input: "image_id" (COCO), "file_name", and, if known, "height" and
                "width" of the image file.

        Returns:
            As far as found, "panoptic_seg": ((H, W) int64 of category * label_divisor + instance,
            -1 where void, and None), or, of more segments than this has numbers for, (ids, and
            Detectron2's list of segments); "instances": Detectron2's, see the readers; "sem_seg":
            (H, W) int64 classes, -1 where there is none.

        Raises:
            EvaluationError: names the file that does not fit.
        """
        image = self._dataset.image_of(item)
        if image not in self._dataset.images:
            raise EvaluationError(f"image {image} is none of {self._dataset.name}")
        if "height" in item and "width" in item:
            size = int(item["height"]), int(item["width"])
        else:
            size = read_size(item["file_name"])
        return {OUTPUT_KEYS[kind]: read(image, size) for kind, read in self._readers.items()}


def _make_reader(dataset: PredictedDataset, folder: Path, kind: str) -> Reader | None:
    """The reader of a kind; None where there are no files of it."""
    if dataset.is_cityscapes and kind != "panoptic":
        root, files = _find_city_files(dataset, folder, kind)
        return CITYSCAPES[kind][0](dataset, root, files) if files else None
    file = _find_json(folder, kind)
    return coco.FORMATS[kind][0](dataset, file) if file else None


def _find_json(folder: Path, kind: str) -> Path | None:
    """The JSON file of a kind; None if there is none."""
    found = [file for name in FOLDERS[kind] for file in (folder / name).glob("*.json")]
    here = list(folder.glob("*.json"))
    if folder.name not in FOLDERS[kind]:
        here = [file for file in here if _kind_of(file) == kind]
    files = sorted(file for file in found + here if not file.name.startswith("."))
    if len(files) > 1:  # tools write the boxes alone beside the masks
        files = [file for file in files if _kind_of(file) != BOXES] or files
    if len(files) > 1:
        names = ", ".join(str(file) for file in files)
        raise EvaluationError(
            f"there are {len(files)} files of {kind} predictions: {names}; keep one, or name a "
            "folder that holds one"
        )
    return files[0] if files else None


def _kind_of(file: Path) -> str | None:
    """The kind of the predictions in a JSON file, by its keys: it is parsed once, by its reader."""
    try:
        require_file(file)
        content = file.read_bytes()
    except OSError as error:
        raise EvaluationError(f"cannot read {file} ({error.strerror or error})") from error
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, "replace").encode()
    if b'"segments_info"' in content:
        return "panoptic"
    start = content[:8].removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"["):  # annotations, or no predictions at all
        return None
    if b'"segmentation"' in content:
        return "instances" if b'"score"' in content else "semantic"
    if b'"bbox"' in content:
        return BOXES
    return None if b"{" in content else "instances"  # an empty list: nothing was found


def _find_city_files(
    dataset: PredictedDataset, folder: Path, kind: str
) -> tuple[Path, FilesByImage]:
    """The folder of Cityscapes' files of a kind, and the files by image."""
    own = next((folder / name for name in FOLDERS[kind] if (folder / name).is_dir()), None)
    root, skipped = (own, set()) if own else (folder, set(itertools.chain(*FOLDERS.values())))
    found: dict[str, dict[Hashable, list[Path]]] = {s: defaultdict(list) for s in (".txt", ".png")}
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(  # neither of other kinds, nor of the pictures of JSON files
            name
            for name in folders
            if name not in skipped and not Path(parent, f"{name}.json").exists()
        )
        for file in (Path(parent, name) for name in sorted(names)):
            image = IMAGE_ID.match(file.name)
            if image and image[0] in dataset.images and file.suffix in found:
                found[file.suffix][image[0]].append(file)
    if kind == "semantic" and root == folder:
        result = _find_json(folder, "panoptic")
        if found[".txt"] or (result is not None and coco.picture_folder(result) == folder):
            return root, {}  # the PNGs are masks of instances, or panoptic
    return root, found[SUFFIXES[kind]]


def _nothing_found(dataset: PredictedDataset, folder: Path) -> str:
    files = ["panoptic/*.json", "instances/*.json", "semantic/*.json"]
    if dataset.is_cityscapes:
        files[1:] = ["instances/<image id>*.txt", "semantic/<image id>*.png"]
    if dataset.things is None:
        files = files[-1:]
    below = sorted({f.parent for p in ("*/*.json", "*/*/*.json") for f in folder.glob(p)})
    near = f". There are JSON files in {below[0]}: name that folder?" if below else ""
    boxes = next((file for file in folder.glob("*.json") if _kind_of(file) == BOXES), None)
    near = f". {boxes.name} holds boxes and no masks" if boxes else near
    return (
        f"no predictions for {dataset.name} in {folder}: looked there for {', '.join(files)}, and "
        f"for files of these formats in the folder itself{near}"
    )
