"""Writers: what they refuse, and what they leave in a folder."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import PredictionFolder, prediction_writers
from tests.predictions.datasets import files_below, save

CITY_KINDS = ("instances", "semantic")

FULL = Path("/dev/full")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.mark.parametrize("source", ["coco", "cityscapes"])
def test_files_lie_where_the_servers_look_and_nothing_else(request, tmp_path, source):
    predicted = request.getfixturevalue(source)
    folder = tmp_path / "out"
    save(predicted, KINDS if source == "coco" else CITY_KINDS, folder)
    names = files_below(folder)
    if source == "coco":
        stem = "panoptic_small7_panoptic-dl_results"
        assert names == {
            f"panoptic/{stem}.json",
            *(f"panoptic/{stem}/{item['image_id']:012d}.png" for item in predicted.items),
            "instances/detections_small7_panoptic-dl_results.json",
            "instances/boxes/detections_small7_panoptic-dl_results.json",
            "semantic/stuff_small7_panoptic-dl_results.json",
        }
        return
    images = [item["image_id"] for item in predicted.items]
    masks = {name for name in names if name.startswith("instances/masks/")}
    assert len(masks) == sum(len(output["instances"]) for output in predicted.outputs)
    assert names - masks == {
        *(f"instances/{image}_pred.txt" for image in images),
        *(f"semantic/{image}_pred_labelIds.png" for image in images),
    }


@pytest.mark.parametrize("source", ["coco", "cityscapes"])
def test_an_evaluation_that_is_repeated_overwrites_cleanly(request, tmp_path, source):
    predicted = request.getfixturevalue(source)
    kinds = KINDS if source == "coco" else CITY_KINDS
    save(predicted, kinds, tmp_path / "once")
    # Before: another model, whose evaluation ended, then one that did not.
    outputs = predicted.outputs
    predicted.outputs = outputs[::-1]
    save(predicted, kinds, tmp_path / "out")
    evaluators = prediction_writers(predicted.name, kinds, tmp_path / "out")
    for evaluator in evaluators:
        evaluator.reset()
        evaluator.process(predicted.items[:2], outputs[2:4])
    for evaluator in evaluators:  # the same object again, as in training
        evaluator.reset()
        evaluator.process(predicted.items, outputs)
        assert evaluator.evaluate() == {}
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


def test_an_evaluation_that_ends_early_leaves_no_whole_file(coco, tmp_path):
    save(coco, KINDS, tmp_path / "out")
    for evaluator in prediction_writers(coco.name, KINDS, tmp_path / "out"):
        evaluator.reset()
        evaluator.process(coco.items[:2], coco.outputs[:2])
        with pytest.raises(EvaluationError, match=r"no prediction for image 11 .*whole split"):
            evaluator.evaluate()
    assert not list((tmp_path / "out").rglob("*.json"))
    with pytest.raises(EvaluationError, match="no predictions for"):
        PredictionFolder(coco.name, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "stranger"),
    [
        ("panoptic", "panoptic_small7_other_results.json"),
        ("panoptic", "panoptic_small7_panoptic-dl_results/000000000099.png"),
        ("instances", "notes.txt"),
        ("semantic", "deep/below/stuff_small7_panoptic-dl_results.json"),
    ],
)
def test_other_files_in_the_folder_are_refused_and_kept(coco, tmp_path, kind, stranger):
    save(coco, KINDS, tmp_path / "out")
    file = tmp_path / "out" / kind / stranger
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    before = contents(tmp_path / "out")
    (evaluator,) = prediction_writers(coco.name, kind, tmp_path / "out")
    with pytest.raises(EvaluationError, match=f"{re.escape(str(file))} is not a file of pred"):
        evaluator.reset()
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["other_0_0_pred.txt", "masks/other_0_0_0000.png", "a.png"])
def test_other_files_of_cityscapes_are_refused(cityscapes, tmp_path, name):
    for kind in CITY_KINDS:
        file = tmp_path / kind / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
        with pytest.raises(EvaluationError, match=re.escape(str(file))):
            prediction_writers(cityscapes.name, kind, tmp_path)[0].reset()


def test_making_writers_touches_nothing(coco, tmp_path):
    save(coco, KINDS, tmp_path / "out")
    before = contents(tmp_path / "out")
    evaluators = prediction_writers(coco.name, KINDS, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    with pytest.raises(EvaluationError, match=r"call reset\(\) first"):
        evaluators[0].process(coco.items[:1], coco.outputs[:1])


def test_what_a_model_does_not_predict_is_named(coco, tmp_path):
    for evaluator, key in zip(
        prediction_writers(coco.name, ["panoptic", "semantic"], tmp_path / "out"),
        ["panoptic_seg", "sem_seg"],
        strict=True,
    ):
        evaluator.reset()
        with pytest.raises(EvaluationError, match=f'image 5: .* no "{key}" to save'):
            evaluator.process(coco.items[:1], [{"instances": None}])


def test_no_instances_anywhere_are_worth_a_warning(coco, tmp_path, caplog):
    save(coco, "instances", tmp_path / "out")
    assert not [r for r in caplog.records if "nothing was found anywhere" in r.message]
    coco.outputs = [{} for _ in coco.outputs]
    save(coco, "instances", tmp_path / "out")
    assert [r for r in caplog.records if "nothing was found anywhere" in r.message]
    (file,) = (tmp_path / "out" / "instances").glob("*.json")
    assert file.read_text().split() == ["[", "]"]


@pytest.mark.parametrize("change", ["class", "score"])
def test_instances_that_cannot_be(coco, cityscapes, tmp_path, change):
    for predicted in (coco, cityscapes):
        (evaluator,) = prediction_writers(predicted.name, "instances", tmp_path / "out")
        evaluator.reset()
        index = next(i for i, o in enumerate(predicted.outputs) if len(o.get("instances", ())))
        instances = predicted.outputs[index]["instances"]
        if change == "class":
            instances.pred_classes = instances.pred_classes + 19
            message = "image .*: a predicted instance has class .* outside the classes"
        else:
            instances.scores[0] = float("nan")
            message = "score .* not finite"
        with pytest.raises(EvaluationError, match=message):
            evaluator.process([predicted.items[index]], [predicted.outputs[index]])


@pytest.mark.parametrize("source", ["coco", "cityscapes"])
def test_comparing_may_leave_the_thread_and_the_order(request, tmp_path, source):
    predicted = request.getfixturevalue(source)
    kinds = KINDS if source == "coco" else CITY_KINDS
    save(predicted, kinds, tmp_path / "once")
    for evaluator in prediction_writers(predicted.name, kinds, tmp_path / "out"):
        evaluator.reset()
        taken = [
            evaluator.extract(item, output)
            for item, output in zip(predicted.items, predicted.outputs, strict=True)
        ]
        with ThreadPoolExecutor(3) as pool:
            compared = list(pool.map(evaluator.match, taken))
        for image in reversed(compared):
            evaluator.update(image)
        evaluator.evaluate()
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("kind", "temporary", "named"),
    [
        (
            "panoptic",
            "{panoptic}/.unfinished.{pid}.000000000005.png",
            "{panoptic}/000000000005.png",
        ),
        ("panoptic", ".unfinished.{pid}.{panoptic}.json", "{panoptic}.json"),
        ("instances", "boxes/.unfinished.{pid}.{boxes}.json", "boxes/{boxes}.json"),
        ("semantic", ".unfinished.{pid}.{stuff}.json", "{stuff}.json"),
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
    message = re.escape(f"cannot write {file}: No space left on device. Free some room")
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
    os.symlink(FULL, tmp_path / "out" / kind / f".unfinished.{os.getpid()}.{name}")
    with pytest.raises(EvaluationError, match=f"cannot write .*{name}: No space"):
        run(evaluator, cityscapes)


def run(evaluator, predicted) -> None:
    evaluator.process(predicted.items, predicted.outputs)
    evaluator.evaluate()


def test_a_disk_that_is_not_shared_is_noticed(coco, cityscapes, tmp_path):
    cases = [(coco, "panoptic")] + [(cityscapes, kind) for kind in CITY_KINDS]
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
