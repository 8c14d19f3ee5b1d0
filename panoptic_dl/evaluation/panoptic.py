"""Panoptic quality (Kirillov et al., CVPR 2019) by panopticapi, inside Detectron2's evaluator.

Shapes: H W pixels.
"""

import itertools
import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from panopticapi.evaluation import PQStat, pq_compute_single_core

from panoptic_dl.evaluation.damage import unreadable
from panoptic_dl.evaluation.figures import EvaluationError, checked
from panoptic_dl.evaluation.label_files import read_panoptic_ids

GROUPS = {"": None, "_th": True, "_st": False}  # suffix of the figure -> isthing, None for all


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """PQ, SQ and RQ over all classes, things (`_th`) and stuff (`_st`), in percent.

    The measure and the averages are panopticapi's. Its driver is replaced, because it divides by
    zero when a split has no thing, or no stuff, at all, leaves one process per core of the machine
    behind, and names neither the file nor the remedy when a prediction is missing. Detectron2's
    `process` is kept, but works on a copy: on the CPU it adds 1 to the model's own output.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "panoptic_seg" of each output: (H, W) ids and, or None, the list of segments."""
        copies = []
        for output in outputs:
            panoptic, segments = output["panoptic_seg"]
            if segments is not None:
                segments = [dict(segment) for segment in segments]
            copies.append({"panoptic_seg": (panoptic.clone(), segments)})
        super().process(inputs, copies)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures from what all processes have seen; None but in the first of them.

        Raises:
            EvaluationError: an image has no prediction, or the truth yields impossible figures.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = {item["image_id"]: item for item in itertools.chain(*gathered)}
        truth = json.loads(Path(self._metadata.panoptic_json).read_bytes())
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for annotation in truth["annotations"]:
            if annotation["image_id"] not in predictions:
                raise EvaluationError(
                    f"no prediction for image {annotation['image_id']} of "
                    f"{self._metadata.panoptic_json} ({len(predictions)} predictions for "
                    f"{len(truth['annotations'])} images): the whole split must be evaluated"
                )
            _complete(annotation, self._metadata.panoptic_root)
            # Detectron2 names the file as the image, whose folder it forgets.
            own_name = {"file_name": f"{len(pairs)}.png"}
            pairs.append((annotation, predictions[annotation["image_id"]] | own_name))
        categories = {category["id"]: category for category in truth["categories"]}
        with tempfile.TemporaryDirectory(prefix="panoptic_eval_") as folder:
            for _, prediction in pairs:
                Path(folder, prediction["file_name"]).write_bytes(prediction["png_string"])
            statistics = _compare(pairs, self._metadata.panoptic_root, folder, categories)
        figures: dict[str, float] = {}
        for suffix, things in GROUPS.items():
            for name, value in _average(statistics, categories, things).items():
                figures[name + suffix] = checked(100 * value, name + suffix)
        return {"panoptic_seg": figures}


def _complete(annotation: dict[str, Any], folder: str) -> None:
    """Give segments what the script needs and own data may lack: no crowd, pixels as area."""
    segments = annotation["segments_info"]
    for segment in segments:
        segment.setdefault("iscrowd", 0)
    without = [segment for segment in segments if "area" not in segment]
    if without:
        ids, areas = np.unique(
            read_panoptic_ids(Path(folder, annotation["file_name"])), return_counts=True
        )
        counted = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        for segment in without:
            segment["area"] = counted.get(segment["id"], 0)


def _compare(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
    truth_folder: str,
    prediction_folder: str,
    categories: dict[int, dict[str, Any]],
) -> PQStat:
    """Match all segments, on as many threads as torch uses; NumPy and Pillow release the lock."""
    num_threads = max(1, min(torch.get_num_threads(), 8, len(pairs)))

    def compare(share: Iterable[Any]) -> PQStat:
        return pq_compute_single_core(0, list(share), truth_folder, prediction_folder, categories)

    total = PQStat()
    shares = [pairs[i::num_threads] for i in range(num_threads)]
    with redirect_stdout(StringIO()), ThreadPoolExecutor(num_threads) as pool:
        try:
            for statistics in pool.map(compare, shares):
                total += statistics
        except (OSError, SyntaxError) as error:
            truth = [Path(truth_folder, annotation["file_name"]) for annotation, _ in pairs]
            raise unreadable(truth, error) from error
    return total


def _average(
    statistics: PQStat, categories: dict[int, dict[str, Any]], things: bool | None
) -> dict[str, float]:
    try:
        averages, _ = statistics.pq_average(categories, isthing=things)
    except ZeroDivisionError:  # no such class in truth or predictions
        averages = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
    return {name.upper(): float(averages[name]) for name in ("pq", "sq", "rq")}
