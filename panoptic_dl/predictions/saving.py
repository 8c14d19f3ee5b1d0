"""`evaluation.save`: the writers of the kinds of predictions that are wanted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_dl.evaluation.evaluator import StreamingEvaluator
from panoptic_dl.predictions.cityscapes import CityscapesInstanceWriter, CityscapesSemanticWriter
from panoptic_dl.predictions.coco import CocoInstanceWriter, CocoSemanticWriter
from panoptic_dl.predictions.dataset import KINDS, look_up
from panoptic_dl.predictions.writer import PanopticWriter


def saving(
    dataset: str,
    kinds: str | Sequence[str],
    folder: str | Path,
    records: Sequence[Mapping[str, Any]] | None = None,
) -> list[StreamingEvaluator[Any, Any]]:
    """Make an evaluator for each kind, which measures nothing and writes `<folder>/<kind>/`.

    Args:
        dataset: a dataset of Detectron2's catalogs, whole, whose metadata has `gt_dir` (Cityscapes)
            or `panoptic_json` or `json_file` (COCO).
        kinds: one or several of "panoptic", "instances" and "semantic"; outputs need
            "panoptic_seg", may have "instances", need "sem_seg".
        folder: made when an evaluation begins. What an earlier one has written for this dataset is
            replaced then; other files below `<folder>/<kind>` are an error.
        records: of the images that will be predicted, for a trial; None: all of the dataset.

    Raises:
        ValueError: a kind is unknown, or the dataset has no such truth.
    """
    wanted = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"cannot save {kind!r}: choose from {', '.join(KINDS)}")
    if not wanted:
        return []
    predicted = look_up(dataset, records)
    makers: dict[str, Any] = {
        "panoptic": PanopticWriter,
        "instances": CityscapesInstanceWriter if predicted.cityscapes else CocoInstanceWriter,
        "semantic": CityscapesSemanticWriter if predicted.cityscapes else CocoSemanticWriter,
    }
    for kind in wanted:
        if kind != "semantic" and predicted.things is None:
            raise ValueError(
                f"cannot save {kind} of {dataset}, a dataset of the semantic task: save semantic, "
                "or choose task=panoptic"
            )
    return [makers[kind](predicted, Path(folder) / kind) for kind in wanted]


def clear_others(dataset: str, kinds: Sequence[str], folder: Path) -> None:
    """Remove what an earlier evaluation has saved of other kinds, which is another model's.

    Call this in one process, with the arguments of `saving`.

    Raises:
        EvaluationError: a folder of another kind has files that are not ours.
    """
    if look_up(dataset).things is None:
        return  # of the semantic task: there is but one kind
    others = [kind for kind in KINDS if kind not in kinds and (Path(folder) / kind).exists()]
    for writer in saving(dataset, others, folder):
        writer.clear()
