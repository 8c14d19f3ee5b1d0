"""Cityscapes' pixel-level metrics: those of its script, and what is refused."""

import contextlib
import io
import itertools
import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
from cityscapesscripts.helpers.labels import category2labels, name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    LABELS,
    StreamingCityscapesSemanticEvaluator,
    image_id,
)
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import (
    OfficialCityscapesSemanticEvaluator,
    OfficialSemanticEvaluator,
)
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from tests.evaluation.model_outputs import evaluate
from tests.evaluation.scenes import (
    semantic_scores,
    write_street_labels,
)
from tests.evaluation.semantic_labels import labelled_dataset

numbers = itertools.count()
CLOSE = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}


def streets(folder, seeds) -> tuple[str, list[dict], list[dict]]:
    """Write labels of Cityscapes; return a dataset, its records and predictions."""
    records, outputs = [], []
    for seed in seeds:
        image = write_street_labels(folder / "gtFine", seed)
        records.append({"file_name": f"anywhere/{image}_leftImg8bit.png"})
        outputs.append({"sem_seg": semantic_scores(folder / "gtFine", image, seed)})
    name = f"streaming_streets_{next(numbers)}"
    MetadataCatalog.get(name).set(gt_dir=str(folder / "gtFine"))
    return name, records, outputs


def official(folder, records, outputs) -> dict:
    """What Cityscapes' script says of the predictions."""
    images = [image_id(record["file_name"]) for record in records]
    truth = [next(folder.glob(f"gtFine/*/{image}_gtFine_labelIds.png")) for image in images]
    ids = np.array([label.id for label in EVALUATED], dtype=np.uint8)
    predictions = []
    for file, output in zip(truth, outputs, strict=True):
        predictions.append(str(folder / f"{file.stem}_pred.png"))
        Image.fromarray(ids[output["sem_seg"].argmax(0).numpy()]).save(predictions[-1])
    script.args.JSONOutput, script.args.quiet = False, True
    with contextlib.redirect_stdout(io.StringIO()):
        return script.evaluateImgLists(predictions, [str(file) for file in truth], script.args)


def compare_with_script(folder, seeds):
    name, records, outputs = streets(folder, seeds)
    figures = evaluate(StreamingCityscapesSemanticEvaluator(name), records, outputs)["sem_seg"]
    expected = official(folder, records, outputs)
    for ours, mean, each in (
        ("IoU", "averageScoreClasses", "classScores"),
        ("iIoU", "averageScoreInstClasses", "classInstScores"),
        ("IoU_sup", "averageScoreCategories", "categoryScores"),
        ("iIoU_sup", "averageScoreInstCategories", "categoryInstScores"),
    ):
        assert figures[ours] == pytest.approx(100 * expected[mean], **CLOSE)
        for label, value in expected[each].items():
            if f"{ours}-{label}" in figures:
                assert figures[f"{ours}-{label}"] == pytest.approx(100 * value, **CLOSE), label
            else:
                assert math.isnan(value)
    assert figures["num_images"] == len(records)
    return figures


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_one_image_has_the_figures_of_cityscapes_script(tmp_path_factory, seed):
    compare_with_script(tmp_path_factory.mktemp("street"), [seed])


@pytest.mark.parametrize("first", [0, 20])
def test_many_images_have_the_figures_of_cityscapes_script(tmp_path, first):
    figures = compare_with_script(tmp_path, range(first, first + 12))
    assert 10 < figures["IoU"] < 90
    assert 1 < figures["iIoU"] < 90


def test_all_figures_are_there_by_name(tmp_path):
    name, records, outputs = streets(tmp_path, range(3))
    figures = evaluate(StreamingCityscapesSemanticEvaluator(name), records, outputs)["sem_seg"]
    names = {key.partition("-")[2] for key in figures if key.startswith("IoU-")}
    assert names == {label.name for label in EVALUATED}
    assert {key for key in figures if key.startswith("iIoU_sup-")} == {
        "iIoU_sup-human",
        "iIoU_sup-vehicle",
    }
    assert {key for key in figures if key.startswith("IoU_sup-")} == {
        f"IoU_sup-{category}" for category in category2labels if category != "void"
    }
    assert headline({"sem_seg": figures})["mIoU"] == figures["IoU"]


def test_figures_equal_the_existing_evaluator(tmp_path):
    name, records, outputs = streets(tmp_path, range(4))
    ours = evaluate(StreamingCityscapesSemanticEvaluator(name), records, outputs)["sem_seg"]
    theirs = evaluate(OfficialCityscapesSemanticEvaluator(name), records, outputs)["sem_seg"]
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, **CLOSE)


def test_accuracies_and_confusions_of_cityscapes_are_those_of_train_ids(tmp_path):
    """Detectron2's generic evaluator has what Cityscapes' script does not print."""
    name, records, outputs = streets(tmp_path, range(6))
    evaluator = StreamingCityscapesSemanticEvaluator(name)
    ours = evaluate(evaluator, records, outputs)["sem_seg"]
    to_train = np.array([name2label[each.name].trainId for each in LABELS.values()])
    assert list(LABELS) == list(range(len(to_train)))
    to_train[to_train < 0] = 255

    def read_truth(record):
        (file,) = tmp_path.glob(f"gtFine/*/{image_id(record['file_name'])}_gtFine_labelIds.png")
        return to_train[np.array(Image.open(file))]

    generic = f"{name}_generic"
    for number, record in enumerate(records):
        record["sem_seg_file_name"] = str(tmp_path / f"train_ids{number}.png")
        Image.fromarray(read_truth(record).astype(np.uint8)).save(record["sem_seg_file_name"])
    DatasetCatalog.register(generic, lambda: records)
    names = [label.name for label in EVALUATED]
    MetadataCatalog.get(generic).set(stuff_classes=names, ignore_label=255)
    theirs = evaluate(OfficialSemanticEvaluator(generic), records, outputs)["sem_seg"]
    for key in ("fwIoU", "mACC", "pACC"):
        assert 0 < ours[key] < 100
        assert ours[key] == pytest.approx(theirs[key], **CLOSE)
    expected = np.zeros((19, 20), dtype=int)
    for record, output in zip(records, outputs, strict=True):
        truth, predicted = read_truth(record), output["sem_seg"].argmax(0).numpy()
        np.add.at(expected, (truth[truth < 255], predicted[truth < 255]), 1)
    assert np.array_equal(evaluator.confusions, expected)
    assert expected.sum() > 0


def test_pixels_without_a_class_are_missed(tmp_path):
    name, records, outputs = streets(tmp_path, range(3))
    full = StreamingCityscapesSemanticEvaluator(name)
    evaluate(full, records, outputs)
    holed = []
    for output in outputs:
        classes = output["sem_seg"].argmax(0)
        classes[::2] = 255
        holed.append({"sem_seg": classes})
    evaluator = StreamingCityscapesSemanticEvaluator(name)
    figures = evaluate(evaluator, records, holed)["sem_seg"]
    assert (evaluator.confusions.sum(axis=1) == full.confusions.sum(axis=1)).all()
    assert evaluator.confusions[:, -1].sum() > 0
    assert (evaluator.confusions[:, :-1] <= full.confusions[:, :-1]).all()
    right = evaluator.confusions[:, :-1].diagonal().sum()
    assert figures["pACC"] == pytest.approx(100 * right / evaluator.confusions.sum())


def test_the_conventions_for_a_class_absent_from_the_truth(tmp_path):
    """Half of the road is taken for sky, which is nowhere: 25 % by Cityscapes, 50 % otherwise."""
    folder = tmp_path / "gtFine" / "x"
    folder.mkdir(parents=True)
    for kind in ("labelIds", "instanceIds"):
        road = np.full((2, 2), name2label["road"].id, dtype=np.uint8)
        Image.fromarray(road).save(folder / f"x_0_0_gtFine_{kind}.png")
    scores = torch.zeros(len(EVALUATED), 2, 2)
    scores[0, 0] = scores[10, 1] = 1
    name = f"streaming_streets_{next(numbers)}"
    MetadataCatalog.get(name).set(
        gt_dir=str(folder.parent),
        stuff_classes=[label.name for label in EVALUATED],
        ignore_label=255,
    )
    label = str(tmp_path / "label.png")
    Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(label)
    records = [{"file_name": "x_0_0_leftImg8bit.png", "sem_seg_file_name": label}]
    DatasetCatalog.register(name, lambda: records)
    outputs = [{"sem_seg": scores}]
    cityscapes = evaluate(StreamingCityscapesSemanticEvaluator(name), records, outputs)
    others = StreamingSemanticEvaluator(name)
    assert cityscapes["sem_seg"]["IoU"] == 25.0
    assert evaluate(others, records, outputs)["sem_seg"]["mIoU"] == 50.0


@pytest.mark.parametrize("kind", ["labels", "streets"])
def test_guards(tmp_path, kind):
    if kind == "labels":
        name, records, outputs = labelled_dataset([1, 2])
        evaluator = StreamingSemanticEvaluator(name)
    else:
        name, records, outputs = streets(tmp_path, [1, 2])
        evaluator = StreamingCityscapesSemanticEvaluator(name)
    with pytest.raises(EvaluationError, match=r"no prediction for image .*1 predictions for 2"):
        evaluate(evaluator, records[:1], outputs[:1])
    with pytest.raises(EvaluationError, match="twice"):
        evaluator.process(records[:1], outputs[:1])
    with pytest.raises(EvaluationError, match="no ground truth for image a_b_c"):
        evaluator.process([{"file_name": "a_b_c"}], outputs[:1])
    evaluator.reset()
    scores = outputs[0]["sem_seg"]
    with pytest.raises(EvaluationError, match=r"sem_seg is \(\d+, \d+, \d+\), not"):
        evaluator.process(records[:1], [{"sem_seg": scores[1:]}])
    evaluator.reset()
    with pytest.raises(EvaluationError, match="at the size of the image file"):
        evaluator.process(records[:1], [{"sem_seg": scores[:, 1:]}])


def test_a_label_that_cannot_be_read_is_named(tmp_path):
    name, records, outputs = streets(tmp_path, [1, 2])
    file = sorted(tmp_path.glob("gtFine/*/*_instanceIds.png"))[1]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluate(StreamingCityscapesSemanticEvaluator(name), records, outputs)


def test_no_labels_are_an_error(tmp_path):
    MetadataCatalog.get("streaming_nowhere").set(gt_dir=str(tmp_path))
    with pytest.raises(EvaluationError, match=r"no <city>/\*_gtFine_labelIds.png below"):
        StreamingCityscapesSemanticEvaluator("streaming_nowhere")
