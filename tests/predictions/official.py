"""What the official programs say of files in a folder, in percent."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as panoptic_script
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixel_script
from detectron2.data import MetadataCatalog
from panopticapi.evaluation import pq_compute_single_core
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_dl.evaluation.official import _average_precisions


def quality(dataset: str, file: Path) -> dict[str, float]:
    """PQ, SQ, RQ by panopticapi, from a result file and the folder of its name."""
    metadata = MetadataCatalog.get(dataset)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    categories = {category["id"]: category for category in truth["categories"]}
    found = {entry["image_id"]: entry for entry in json.loads(file.read_text())["annotations"]}
    pairs = [(entry, found[entry["image_id"]]) for entry in truth["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = pq_compute_single_core(
            0, pairs, metadata.panoptic_root, str(file.with_suffix("")), categories
        )
    averages, _ = statistics.pq_average(categories, isthing=None)
    return {name.upper(): 100 * averages[name] for name in ("pq", "sq", "rq")}


def cityscapes_quality(dataset: str, folder: Path, results: Path, monkeypatch) -> dict[str, float]:
    """PQ, SQ, RQ by Cityscapes' script, which finds the result in `folder` under its own name."""
    metadata = MetadataCatalog.get(dataset)

    def alone(pairs, truth_folder, folder, categories):
        return panoptic_script.pq_compute_single_core(0, pairs, truth_folder, folder, categories)

    monkeypatch.setattr(panoptic_script, "pq_compute_multi_core", alone)
    with contextlib.redirect_stdout(io.StringIO()):
        figures = panoptic_script.evaluatePanoptic(
            metadata.panoptic_json,
            metadata.panoptic_root,
            str(folder / "cityscapes_panoptic_val.json"),
            str(folder / "cityscapes_panoptic_val"),
            str(results),
        )
    return {name.upper(): 100 * figures["All"][name] for name in ("pq", "sq", "rq")}


def cityscapes_iou(dataset: str, folder: Path) -> dict[str, float]:
    """IoU and iIoU of classes by Cityscapes' script, which looks for the files below `folder`."""
    truth = sorted(Path(MetadataCatalog.get(dataset).gt_dir).glob("*/*_gtFine_labelIds.png"))
    args = pixel_script.args
    args.predictionPath, args.predictionWalk = str(folder), None
    args.JSONOutput, args.quiet = False, True
    files = [pixel_script.getPrediction(args, str(file)) for file in truth]
    with contextlib.redirect_stdout(io.StringIO()):
        figures = pixel_script.evaluateImgLists(files, [str(file) for file in truth], args)
    return {
        "IoU": 100 * figures["averageScoreClasses"],
        "iIoU": 100 * figures["averageScoreInstClasses"],
    }


@pytest.mark.filterwarnings("ignore")
def cityscapes_ap(dataset: str, folder: Path, cache: Path, monkeypatch) -> dict[str, float]:
    """AP and AP50 by Cityscapes' script, which looks for the texts below `folder`."""
    truth = sorted(Path(MetadataCatalog.get(dataset).gt_dir).glob("*/*_gtFine_instanceIds.png"))
    args, original = instance_script.args, instance_script.evaluateMatches
    args.predictionPath, args.predictionWalk = str(folder), None
    args.JSONOutput, args.quiet, args.gtInstancesFile = False, True, str(cache)
    monkeypatch.setattr(instance_script, "writeDict2JSON", lambda content, file: None)
    monkeypatch.setattr(
        instance_script,
        "evaluateMatches",
        lambda matches, args: _average_precisions(original, matches, args),
    )
    files = [instance_script.getPrediction(str(file), args) for file in truth]
    with contextlib.redirect_stdout(io.StringIO()):
        figures = instance_script.evaluateImgLists(files, [str(file) for file in truth], args)
    return {
        "AP": 100 * figures["averages"]["allAp"],
        "AP50": 100 * figures["averages"]["allAp50%"],
    }


def coco_ap(dataset: str, file: Path, kind: str) -> np.ndarray:
    """The 12 figures of COCO's server, -100 where there is none, from a result file."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(dataset).json_file)
        evaluation = COCOeval(truth, truth.loadRes(str(file)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats
