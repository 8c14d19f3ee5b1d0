"""Writers on disks that are full, or not shared by all processes."""

import os
import re
from pathlib import Path

import pytest

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import prediction_writers

CITY_KINDS = ("instances", "semantic")
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("kind", "temporary", "named"),
    [
        ("panoptic", "{panoptic}/.000000000005.png.{pid}.tmp", "{panoptic}/000000000005.png"),
        ("panoptic", ".{panoptic}.json.part0", ".{panoptic}.json.part0"),
        ("panoptic", ".{panoptic}.json.{pid}.tmp", "{panoptic}.json"),
        ("instances", "boxes/.{boxes}.json.part0", "boxes/.{boxes}.json.part0"),
        ("semantic", ".{stuff}.json.{pid}.tmp", "{stuff}.json"),
    ],
)
def test_a_full_disk_is_an_error_that_names_the_file(coco, tmp_path, kind, temporary, named):
    stems = {
        name: f"{prefix}_small7_panoptic-dl_results"
        for name, prefix in (("panoptic", "panoptic"), ("boxes", "detections"), ("stuff", "stuff"))
    }
    (evaluator,) = prediction_writers(coco.name, kind, tmp_path)
    evaluator.reset()
    os.symlink(FULL, tmp_path / kind / temporary.format(**stems, pid=os.getpid()))
    file = tmp_path / kind / named.format(**stems)
    message = re.escape(f"cannot write {file} (No space left on device); make room")
    with pytest.raises(EvaluationError, match=message):
        run(evaluator, coco)
    assert not (tmp_path / kind / f"{stems['panoptic']}.json").exists()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("kind", CITY_KINDS)
def test_a_full_disk_under_cityscapes_files(cityscapes, tmp_path, kind):
    (evaluator,) = prediction_writers(cityscapes.name, kind, tmp_path / "out")
    evaluator.reset()
    image = cityscapes.items[0]["image_id"]
    name = f"{image}_pred.txt" if kind == "instances" else f"{image}_pred_labelIds.png"
    os.symlink(FULL, tmp_path / "out" / kind / f".{name}.{os.getpid()}.tmp")
    with pytest.raises(EvaluationError, match=f"cannot write .*{name} .No space"):
        run(evaluator, cityscapes)


def run(evaluator, predicted) -> None:
    evaluator.process(predicted.items, predicted.outputs)
    evaluator.evaluate()


def test_a_disk_that_is_not_shared_is_noticed(coco, cityscapes, tmp_path):
    cases = [(coco, kind) for kind in KINDS] + [(cityscapes, kind) for kind in CITY_KINDS]
    for number, (predicted, kind) in enumerate(cases):
        folder = tmp_path / str(number)
        (evaluator,) = prediction_writers(predicted.name, kind, folder)
        evaluator.reset()
        evaluator.process(predicted.items, predicted.outputs)
        for file in folder.rglob("*"):
            if file.is_file():
                file.unlink()  # as if another machine had written it
        with pytest.raises(EvaluationError, match="must write to one disk"):
            evaluator.evaluate()
