"""Streaming instance AP: the figures of Cityscapes' script on adversarial images."""

import contextlib
import io
import itertools
import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_instances import (
    OVERLAPS,
    StreamingCityscapesInstanceEvaluator,
    _average_precision,
    _match_instances,
)
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, INSTANCE_LABELS, image_id
from panoptic_dl.evaluation.evaluator import Detection
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import OfficialCityscapesInstanceEvaluator, _average_precisions
from tests.evaluation.model_outputs import evaluate
from tests.evaluation.scenes import instance_predictions, write_street_labels

numbers = itertools.count()
CLOSE = {"rel": 0, "abs": 1e-9, "nan_ok": True}
NAMES = [label.name for label in EVALUATED]


def register(folder) -> str:
    name = f"streaming_instances_{next(numbers)}"
    MetadataCatalog.get(name).set(gt_dir=str(folder / "gtFine"), thing_classes=NAMES)
    return name


def streets(folder, seeds) -> tuple[str, list[dict], list[dict]]:
    """Write labels of Cityscapes; return a dataset, its records and predictions."""
    records, outputs = [], []
    for seed in seeds:
        image = write_street_labels(folder / "gtFine", seed)
        records.append({"file_name": f"anywhere/{image}_leftImg8bit.png"})
        outputs.append({"instances": instance_predictions(folder / "gtFine", image, seed)})
    return register(folder), records, outputs


def official(folder, records, outputs) -> np.ndarray:
    """Average precisions (classes, overlaps) by Cityscapes' script."""
    args = script.args
    args.predictionPath, args.quiet = str(folder), True
    script.setInstanceLabels(args)
    assert args.instLabels == [label.name for label in INSTANCE_LABELS]
    truth, predictions = [], []
    for record, output in zip(records, outputs, strict=True):
        image = image_id(record["file_name"])
        (file,) = folder.glob(f"gtFine/*/{image}_gtFine_instanceIds.png")
        truth.append(str(file))
        lines = []
        instances = output.get("instances", ())
        for index in range(len(instances)):
            mask = instances.pred_masks[index].numpy().astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / f"{image}_{index}.png")
            label = EVALUATED[int(instances.pred_classes[index])].id
            lines.append(f"{image}_{index}.png {label} {instances.scores[index]}\n")
        predictions.append(str(folder / f"{image}_pred.txt"))
        (folder / f"{image}_pred.txt").write_text("".join(lines))
    with contextlib.redirect_stdout(io.StringIO()):
        instances = script.instances2dict(truth, False)
        matches = script.matchGtWithPreds(predictions, truth, instances, args)
        return _average_precisions(script.evaluateMatches, matches, args)[0]


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def compare_with_script(folder, seeds):
    return compare(folder, *streets(folder, seeds))


def compare(folder, name, records, outputs):
    figures = evaluate(StreamingCityscapesInstanceEvaluator(name), records, outputs)["segm"]
    table = official(folder, records, outputs)
    for index, label in enumerate(INSTANCE_LABELS):
        expected = 100 * table[index]
        assert figures[f"AP-{label.name}"] == pytest.approx(expected.mean(), **CLOSE)
        assert figures[f"AP50-{label.name}"] == pytest.approx(expected[0], **CLOSE)
    there = table[~np.isnan(table[:, 0])]
    for key, values in (("AP", there), ("AP50", there[:, 0])):
        expected = 100 * values.mean() if len(there) else math.nan
        assert figures[key] == pytest.approx(expected, **CLOSE)
    assert figures["num_images"] == len(records)
    return figures


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_one_image_has_the_figures_of_cityscapes_script(tmp_path_factory, seed):
    compare_with_script(tmp_path_factory.mktemp("street"), [seed])


@pytest.mark.parametrize("first", [0, 20])
def test_many_images_have_the_figures_of_cityscapes_script(tmp_path, first):
    figures = compare_with_script(tmp_path, range(first, first + 15))
    assert 2 < figures["AP"] < figures["AP50"] < 90


def test_figures_equal_the_existing_evaluator(tmp_path):
    name, records, outputs = streets(tmp_path, range(6))
    ours = evaluate(StreamingCityscapesInstanceEvaluator(name), records, outputs)
    theirs = evaluate(OfficialCityscapesInstanceEvaluator(name), records, outputs)
    assert {key: ours["segm"][key] for key in theirs["segm"]} == pytest.approx(
        theirs["segm"], **CLOSE
    )
    assert headline(ours) == {"AP": pytest.approx(theirs["segm"]["AP"], abs=1e-9)}


def street(folder, truth: np.ndarray, masks: list, classes: list[int], scores: list[float]):
    """A dataset of one image."""
    place = folder / "gtFine" / "a"
    place.mkdir(parents=True)
    Image.fromarray(truth.astype(np.uint16)).save(place / "a_0_0_gtFine_instanceIds.png")
    instances = Instances(
        truth.shape,
        pred_masks=torch.from_numpy(np.array(masks, dtype=bool)),
        pred_classes=torch.tensor(classes),
        scores=torch.tensor(scores),
    )
    return register(folder), [{"file_name": "a_0_0_leftImg8bit.png"}], [{"instances": instances}]


CAR, PERSON = 26, 24


def columns(start, stop):
    mask = np.zeros((10, 40), dtype=bool)
    mask[:, start:stop] = True
    return mask


@pytest.mark.parametrize(
    ("case", "ap50"),
    [
        ("all missed, all ignored", 0.0),  # the script raises IndexError
        ("twice", 75.0),
        ("twice, the better one first in score", 100.0),
        ("an error above", 25.0),
        ("an error below", 100.0),
        ("half", 0.0),
        ("a caravan is not void", 25.0),
        ("a group of caravans is void", 100.0),
        ("99 pixels", math.nan),
        ("a small group counts twice", 100.0),
        ("another class", 0.0),
    ],
)
def test_corners(tmp_path, case, ap50):
    truth = np.zeros((10, 40), dtype=np.int64)
    truth[:, 10:] = 7  # road; columns 0..9 are void
    truth[:, 10:20] = CAR * 1000 + 1
    right, error = columns(10, 20), columns(25, 35)
    found = {
        "all missed, all ignored": [(columns(0, 10), 13, 0.9)],
        "twice": [(right, 13, 0.5), (right, 13, 0.5)],
        "twice, the better one first in score": [(columns(11, 20), 13, 0.9), (right, 13, 0.4)],
        "an error above": [(right, 13, 0.5), (error, 13, 0.9)],
        "an error below": [(right, 13, 0.5), (error, 13, 0.4)],
        "half": [(columns(10, 15), 13, 0.5)],
        "a caravan is not void": [(right, 13, 0.5), (error, 13, 0.9)],
        "a group of caravans is void": [(right, 13, 0.5), (error, 13, 0.9)],
        "99 pixels": [(right, 13, 0.5)],
        "a small group counts twice": [(right, 13, 0.5), (error, 13, 0.9)],
        "another class": [(right, 11, 0.5)],
    }[case]
    if case == "a caravan is not void":
        truth[error] = 29 * 1000
    if case == "a group of caravans is void":
        truth[error] = 29
    if case == "99 pixels":
        truth[0, 10] = 7
    if case == "a small group counts twice":
        truth[:, 25:28] = CAR  # 0.3 of the error
    masks, classes, scores = zip(*found, strict=True)
    name, records, outputs = street(tmp_path, truth, list(masks), list(classes), list(scores))
    figures = compare(tmp_path, name, records, outputs)
    assert figures["AP50-car"] == pytest.approx(ap50, nan_ok=True)


def test_no_instances_at_all(tmp_path):
    name, records, outputs = streets(tmp_path, range(4))
    figures = compare(tmp_path, name, records, [{} for _ in outputs])
    assert figures["AP"] == 0.0


scored = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.5, 0.8, 1.0]), st.booleans()))


@given(scored, st.integers(1, 5), st.randoms())
def test_average_precision_lies_between_0_and_1_in_any_order(rows, num_missed, random):
    def measure():
        scores, true = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=bool)
        return _average_precision(scores, true, num_missed)

    before = measure()
    assert 0 <= before <= 1
    random.shuffle(rows)
    assert measure() == before


def test_overlaps_are_those_of_the_script():
    assert (script.args.overlaps == OVERLAPS).all()
    assert script.args.minRegionSizes[0] == 100


def test_guards(tmp_path):
    name, records, outputs = streets(tmp_path, [1, 2])
    evaluator = StreamingCityscapesInstanceEvaluator(name)
    with pytest.raises(EvaluationError, match=r"no prediction for image .*1 predictions for 2"):
        evaluate(evaluator, records[:1], outputs[:1])
    with pytest.raises(EvaluationError, match="twice"):
        evaluator.process(records[:1], outputs[:1])
    with pytest.raises(EvaluationError, match="no ground truth for image a_b_c"):
        evaluator.process([{"file_name": "a_b_c"}], outputs[:1])
    file = next(tmp_path.glob("gtFine/*/*1_000019_gtFine_instanceIds.png"))
    file.write_bytes(file.read_bytes()[:60])
    evaluator.reset()
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluator.process(records[:1], outputs[:1])


@pytest.mark.parametrize(
    ("label", "shape", "message"),
    [
        (7, (4, 5), r"mask is \(4, 5\), the ground truth \(4, 4\)"),
        (34, (4, 4), "unknown label with id 34"),
        (77_001, (4, 4), "unknown label with id 77001"),
    ],
)
def test_what_does_not_fit_is_named(label, shape, message):
    truth = np.full((4, 4), label)
    mask = np.ones(shape, dtype=bool)
    with pytest.raises(EvaluationError, match=message):
        _match_instances(truth, [Detection(CAR, 0.5, mask, np.zeros(4, np.float32))])
