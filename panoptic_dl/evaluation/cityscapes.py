"""The official Cityscapes scripts (Cordts et al., CVPR 2016), inside Detectron2's evaluators.

The scripts were written for the command line: they exit the process on errors, print pages, and
write into the working folder. Here errors become exceptions, pages go to the log (level DEBUG), and
nothing is written outside a temporary folder. The scripts take every label below `gt_dir` for a
question, so the whole split must be predicted.

Shapes: K classes, H W pixels, N instances.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.evaluation.cityscapes_labels import EVALUATED, to_label_ids
from panoptic_dl.evaluation.damage import unreadable
from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.most_likely import most_likely

logger = logging.getLogger(__name__)

Figures = dict[str, dict[str, float]]


class CityscapesSemanticEvaluator(CityscapesSemSegEvaluator):
    """Intersection over union, `sem_seg.IoU` (the mIoU of papers), iIoU and those of categories.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores of train ids, or (H, W)
    train ids, of which all others than 0..18 mean that the pixel has none.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Write label ids for the script; `unlabeled` where a pixel has no class.

        The script knows no 255: its array of counts has no place for it.
        """
        for item, output in zip(inputs, outputs, strict=True):
            classes = output["sem_seg"]
            if classes.ndim == 2:
                labels = to_label_ids(most_likely(classes, len(EVALUATED)))
                name = f"{Path(item['file_name']).stem}_pred.png"
                Image.fromarray(labels).save(Path(self._temp_dir, name))
            else:
                super().process([item], [output])

    def evaluate(self) -> Figures | None:
        """Compute the figures; None but in the first process.

        Raises:
            EvaluationError: an image of the split has no prediction, or the script gives up.
        """
        comm.synchronize()  # predictions of all processes are in the folder
        if not comm.is_main_process():
            return super().evaluate()  # waits for the main process once more
        _require_predictions(self._metadata.gt_dir, "_gtFine_labelIds.png", self._temp_dir, ".png")
        return _run(super().evaluate, self._metadata.gt_dir)


class CityscapesInstanceAPEvaluator(CityscapesInstanceEvaluator):
    """Average precision of masks, `segm.AP` and `segm.AP50`.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids), `scores`.
    """

    def evaluate(self) -> Figures | None:
        """Compute the figures; None but in the first process.

        Raises:
            EvaluationError: an image of the split has no prediction, or the script gives up.
        """
        comm.synchronize()  # predictions of all processes are in the folder
        if not comm.is_main_process():
            return super().evaluate()  # waits for the main process once more
        _require_predictions(
            self._metadata.gt_dir, "_gtFine_instanceIds.png", self._temp_dir, ".txt"
        )
        official = instance_script.evaluateMatches
        with (
            # It writes matches.json into the working folder (and cannot, with NumPy 2), and a cache
            # of the truth into the temporary one: both are for later runs by hand.
            _replaced(instance_script, "writeDict2JSON", lambda content, file: None),
            _replaced(
                instance_script,
                "evaluateMatches",
                lambda matches, args: _average_precisions(official, matches, args),
            ),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return _run(super().evaluate, self._metadata.gt_dir)


def _average_precisions(
    official: Callable[[Any, Any], np.ndarray], matches: dict[str, Any], args: Any
) -> np.ndarray:
    """Average precisions by distance, class and overlap; also where the script raises IndexError.

    It does when all instances of a class are missed and all predictions of it are ignored (on void,
    groups or tiny instances): its list of scores is empty then. That is an average precision of 0.
    """
    try:
        return official(matches, args)
    except IndexError:
        pass
    rows = []
    for label in args.instLabels:
        for overlap in args.overlaps:
            single = copy.copy(args)
            single.instLabels, single.overlaps = [label], np.array([overlap])
            try:
                rows.append(official(matches, single)[:, 0, 0])
            except IndexError:
                rows.append(np.zeros_like(rows[0]) if rows else np.zeros(1))
    # (K * overlaps, distances) -> (distances, K, overlaps)
    return np.stack(rows, axis=1).reshape(-1, len(args.instLabels), len(args.overlaps))


def _require_predictions(truth: str, label: str, folder: str, suffix: str) -> None:
    """Raise `EvaluationError` unless each label file below `truth` has a prediction in `folder`."""
    predicted = {_image_id(file.name) for file in Path(folder).glob(f"*_pred{suffix}")}
    labels = sorted(Path(truth).glob(f"*/*{label}"))
    if not labels:
        raise EvaluationError(f"no <city>/*{label} below {truth}")
    missing = [file for file in labels if _image_id(file.name) not in predicted]
    if missing:
        raise EvaluationError(
            f"no prediction for {missing[0]} ({len(predicted)} predictions for {len(labels)} "
            "images): the official Cityscapes scripts need the whole split"
        )


def _image_id(file: str) -> str:
    return "_".join(file.split("_")[:3])  # <city>_<sequence>_<frame>


def _run(evaluate: Callable[[], Any], truth: str) -> Figures:
    """Call an official script: its output goes to the log, its exit becomes an exception."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            results = evaluate()
    except SystemExit as exit_:
        reason = printed.getvalue().rpartition("ERROR: ")[2].strip()
        raise EvaluationError(
            f"the official Cityscapes script gave up: {reason}. If it is about a label, unpack or "
            "prepare that file again"
        ) from exit_
    except (OSError, SyntaxError) as error:  # Pillow, on a damaged label
        raise unreadable(sorted(Path(truth).glob("*/*_gtFine_*Ids.png")), error) from error
    logger.debug("%s", printed.getvalue())
    return {
        task: {name: float(value) for name, value in figures.items()}
        for task, figures in results.items()
    }


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
