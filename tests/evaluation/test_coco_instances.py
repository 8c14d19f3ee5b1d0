"""COCO's box and mask AP: pycocotools' to 1e-9, and what is refused."""

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.datasets.coco import coco_panoptic
from panoptic_dl.evaluation.coco_instances import StreamingCOCOInstanceEvaluator
from panoptic_dl.evaluation.official import OfficialCOCOInstanceEvaluator
from tests.datasets.tiny_datasets import write_coco
from tests.evaluation.coco_scenes import (
    annotate,
    draw_mask,
    encode,
    predict_scene,
    predict_scenes,
    register_coco,
    truth_of_scenes,
)
from tests.evaluation.model_outputs import REAL, err, evaluate, make_instances

TOLERANCE = 1e-9
THINGS = set(range(80))


def assert_same(found: dict, expected: dict, num_images: int) -> None:
    assert list(found) == ["bbox", "segm"]
    for kind, figures in found.items():
        assert figures.pop("num_images") == num_images
        assert list(figures) == list(expected[kind])
        assert figures == pytest.approx(expected[kind], rel=0, abs=TOLERANCE, nan_ok=True)


def compare(name: str, outputs: list[dict]) -> dict:
    """The official metrics, after a look at ours."""
    records = DatasetCatalog.get(name)
    expected = evaluate(OfficialCOCOInstanceEvaluator(name), records, outputs)
    found = evaluate(StreamingCOCOInstanceEvaluator(name), records, outputs)
    assert_same(found, expected, len(records))
    return expected


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_the_official_ones(tmp_path, seed):
    content = truth_of_scenes(num_images=12, seed=seed)
    expected = compare(register_coco(content, tmp_path), predict_scenes(content, seed))
    for figures in expected.values():
        assert 0 < figures["AP"] < 100
        assert math.isnan(figures["AP-ghost"])
        assert not any(math.isnan(figures[name]) for name in ("APs", "APm", "APl"))


@pytest.mark.thorough
def test_beyond_a_hundred_predictions_of_a_class_the_best_count(tmp_path):
    content = truth_of_scenes(num_images=2, seed=5)
    draw = np.random.default_rng(0)
    outputs = []
    for image, num_classes in zip(content["images"], (2, 1), strict=True):
        number = 1000 * (1 + len(outputs))
        content["annotations"] += [annotate(image, number + i, draw) for i in range(50)]
        found = [predict_scene(content, image, seed, extra=30) for seed in range(8)]
        instances = Instances.cat([output["instances"] for output in found if output])
        instances.pred_classes %= num_classes
        assert instances.pred_classes.bincount().min() > 150
        outputs.append({"instances": instances})
    name = register_coco(content, tmp_path)
    expected = compare(name, outputs)
    assert 0 < expected["segm"]["AP-person"] < 100
    evaluator, records = StreamingCOCOInstanceEvaluator(name), DatasetCatalog.get(name)
    forwards = evaluate(evaluator, records, outputs)
    assert json.dumps(evaluate(evaluator, records[::-1], outputs[::-1])) == json.dumps(forwards)
    assert sum(len(rows) for rows in evaluator._rows) == 300


def test_nothing_predicted_is_0_and_nothing_to_find_is_not_a_number(tmp_path):
    content = truth_of_scenes(num_images=4, seed=3)
    expected = compare(register_coco(content, tmp_path), [{}] * 4)
    assert expected["bbox"]["AP"] == expected["segm"]["APs"] == 0
    content["annotations"] = []
    outputs = predict_scenes(content, 0)
    assert any("instances" in output for output in outputs)
    expected = compare(register_coco(content, tmp_path), outputs)
    assert all(math.isnan(value) for value in expected["segm"].values())


def test_a_crowd_is_neither_missed_nor_found(tmp_path):
    content = truth_of_scenes(num_images=4, seed=3)
    outputs = predict_scenes(content, 0)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    expected = compare(register_coco(content, tmp_path), outputs)
    assert all(math.isnan(value) for value in expected["bbox"].values())


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.int64])
def test_masks_of_other_types_count_as_in_detectron2(tmp_path, kind):
    content = truth_of_scenes(num_images=4, seed=1)
    outputs = predict_scenes(content, 1)
    for output in outputs:
        if "instances" in output:
            instances = output["instances"]
            masks = instances.pred_masks.to(kind)
            if kind == torch.float32:
                masks[masks == 0] = 0.9
            instances.pred_masks = masks
    assert 0 < compare(register_coco(content, tmp_path), outputs)["segm"]["AP"] < 100


def test_a_match_with_an_annotation_of_number_0_counts_as_none(tmp_path):
    """A peculiarity of pycocotools; COCO counts from 1 or higher."""
    content = truth_of_scenes(num_images=1, seed=0)
    mask = np.zeros((200, 300), dtype=bool)
    mask[:20, :20] = True
    content["annotations"] = [
        annotate(content["images"][0], 0, np.random.default_rng(0))
        | {"segmentation": encode(mask), "bbox": [0, 0, 20, 20], "iscrowd": 0, "category_id": 1}
    ]
    outputs = [{"instances": make_instances(mask[None], [0])}]
    assert compare(register_coco(content, tmp_path), outputs)["segm"]["AP"] == 0


def test_ties_between_images_count_in_the_order_of_their_ids(tmp_path):
    """The right one of two equal scores comes first, or second, whatever came first."""
    content = truth_of_scenes(num_images=2, seed=0)
    mask = np.zeros((2, 40, 50), dtype=bool)
    mask[0, :20, :20] = mask[1, 25:, 25:] = True
    figures = []
    for right in (0, 1):
        for image in content["images"]:
            image["height"], image["width"] = mask.shape[1:]
        ids = sorted(image["id"] for image in content["images"])
        content["annotations"] = [
            annotate(content["images"][0], 1 + index, np.random.default_rng(0))
            | {"image_id": image, "segmentation": encode(mask[0]), "bbox": [0, 0, 20, 20]}
            | {"iscrowd": 0, "category_id": 1, "area": 400}
            for index, image in enumerate(ids)
        ]
        name = register_coco(content, tmp_path)
        outputs = [
            {"instances": make_instances(mask[[int(record["image_id"] != ids[right])]], [0])}
            for record in DatasetCatalog.get(name)
        ]
        figures.append(compare(name, outputs)["segm"]["AP"])
        evaluator = StreamingCOCOInstanceEvaluator(name)
        backwards = evaluate(evaluator, DatasetCatalog.get(name)[::-1], outputs[::-1])
        assert backwards["segm"]["AP"] == pytest.approx(figures[-1], abs=TOLERANCE)
    assert figures[0] > 1.5 * figures[1] > 0


def test_the_order_of_evaluation_changes_no_bit(tmp_path):
    content = truth_of_scenes(num_images=9, seed=4)
    name = register_coco(content, tmp_path)
    records, outputs = DatasetCatalog.get(name), predict_scenes(content, 4)
    evaluator = StreamingCOCOInstanceEvaluator(name)
    results = []
    for order in (range(9), range(8, -1, -1), np.random.default_rng(0).permutation(9)):
        results.append(
            evaluate(evaluator, [records[i] for i in order], [outputs[i] for i in order])
        )
    assert json.dumps(results[0]) == json.dumps(results[1]) == json.dumps(results[2])


def test_threads_may_compare_at_once_and_leave_everything_as_it_is(tmp_path):
    content = truth_of_scenes(num_images=16, seed=2)
    name = register_coco(content, tmp_path)
    records, outputs = DatasetCatalog.get(name), predict_scenes(content, 2)
    evaluator = StreamingCOCOInstanceEvaluator(name)
    expected = evaluate(evaluator, records, outputs)
    evaluator.reset()
    before = repr(evaluator._instances)
    taken = [evaluator.extract(*pair) for pair in zip(records, outputs, strict=True)]
    untouched = copy.deepcopy(outputs)
    with ThreadPoolExecutor(4) as pool:
        compared = list(pool.map(evaluator.match, taken * 3))
    assert repr(evaluator._instances) == before
    for output, copied in zip(outputs, untouched, strict=True):
        assert repr(output) == repr(copied)
    for one, again in zip(compared[:16], compared[16:32], strict=True):
        assert np.array_equal(one[1], again[1])
    for one in compared[32:]:
        evaluator.update(one)
    assert json.dumps(evaluator.evaluate()) == json.dumps(expected)


def test_nothing_is_printed(tmp_path, capsys):
    content = truth_of_scenes(num_images=3, seed=2)
    name = register_coco(content, tmp_path)
    evaluate(
        StreamingCOCOInstanceEvaluator(name), DatasetCatalog.get(name), predict_scenes(content, 2)
    )
    assert capsys.readouterr().out == ""


def compare_dataset(name: str, num_images: int) -> dict:
    records = DatasetCatalog.get(name)
    assert len(records) == num_images
    draw = np.random.default_rng(0)
    evaluators = [OfficialCOCOInstanceEvaluator(name), StreamingCOCOInstanceEvaluator(name)]
    for evaluator in evaluators:
        evaluator.reset()
    for record in records:
        output = err(record, 133, THINGS, draw, with_logits=False)
        for evaluator in evaluators:
            evaluator.process([record], [output])
    expected, found = [evaluator.evaluate() for evaluator in evaluators]
    assert_same(found, expected, num_images)
    return expected


def test_toy_coco(tmp_path):
    small = ["dataset.root.num_train=1", "dataset.root.num_val=4", f"dataset.root.root={tmp_path}"]
    cfg = compose(["dataset=toy_coco", "task=panoptic", *small])
    for figures in compare_dataset(build(cfg.dataset.test.panoptic), 4).values():
        assert 5 < figures["AP"] < 95


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_real_coco():
    name = coco_panoptic(root=str(REAL), split="val", prefix="streaming_ap_real_")
    for figures in compare_dataset(name, 100).values():
        assert 5 < figures["AP"] < 95
        assert not any(math.isnan(figures[size]) for size in ("APs", "APm", "APl"))


@pytest.fixture
def scene(tmp_path):
    """A dataset of three images of 200 x 300, its content, and a prediction for the first."""
    content = truth_of_scenes(num_images=3, seed=2)
    for image in content["images"]:
        image["height"], image["width"] = 200, 300
    content["annotations"] = [
        annotate(image, index + 1, np.random.default_rng(index))
        for index, image in enumerate(content["images"])
    ]
    mask = draw_mask((200, 300), np.random.default_rng(0))
    return content, {"instances": make_instances(np.stack([mask, mask]), [0, 1])}


def register_scene(scene, tmp_path):
    name = register_coco(scene[0], tmp_path)
    return name, DatasetCatalog.get(name), StreamingCOCOInstanceEvaluator(name)


def test_images_must_be_those_of_the_dataset_once_each(scene, tmp_path):
    _, records, evaluator = register_scene(scene, tmp_path)
    with pytest.raises(EvaluationError, match=r"no ground truth for image 8 in .*json"):
        evaluator.process([{"image_id": 8}], [{}])
    evaluator.process(records[:1], [{}])
    with pytest.raises(EvaluationError, match="was evaluated twice"):
        evaluator.process(records[:1], [{}])
    evaluator.reset()
    evaluator.process(records[:1], [{}])
    with pytest.raises(EvaluationError, match=r"no prediction for image .*1 predictions for 3"):
        evaluator.evaluate()
    evaluator.reset()
    evaluator.process(records, [{}] * 3)
    assert evaluator.evaluate()["segm"]["num_images"] == 3


def break_class(instances):
    instances.pred_classes[1] = 6


def break_class_below(instances):
    instances.pred_classes[0] = -1


def break_score(instances):
    instances.scores[1] = float("nan")


def break_score_infinite(instances):
    instances.scores[0] = float("inf")


def break_box(instances):
    instances.pred_boxes.tensor[1, 2] = float("nan")


def break_masks(instances):
    instances.pred_masks = instances.pred_masks.transpose(1, 2)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (break_class, r"class 6, outside the classes 0\.\.5"),
        (break_class_below, "class -1, outside"),
        (break_score, "score or the box of a predicted instance is not finite"),
        (break_score_infinite, "score or the box of a predicted instance is not finite"),
        (break_box, "box of a predicted instance is not finite"),
        (break_masks, r"prediction is \(300, 200\), the ground truth \(200, 300\)"),
    ],
)
def test_a_prediction_that_does_not_fit_is_named_by_its_image(scene, tmp_path, breaks, message):
    _, records, evaluator = register_scene(scene, tmp_path)
    breaks(scene[1]["instances"])
    with pytest.raises(EvaluationError, match=f"image {records[0]['image_id']}: .*{message}"):
        evaluator.process(records[:1], [scene[1]])


def test_instances_without_any_member_need_no_size(scene, tmp_path):
    _, records, evaluator = register_scene(scene, tmp_path)
    nothing = Instances((0, 0), pred_boxes=Boxes(torch.zeros(0, 4)))
    evaluator.process(records, [{"instances": nothing}] * 3)
    assert evaluator.evaluate()["segm"]["AP"] == 0


def test_file_and_dataset_must_hold_the_same_images(scene, tmp_path):
    name, records, _ = register_scene(scene, tmp_path)
    image = records.pop()["image_id"]
    with pytest.raises(EvaluationError, match=f"image {image} is in .*json but not in {name}"):
        StreamingCOCOInstanceEvaluator(name)
    records += [{"image_id": image}, {"image_id": 123}]
    with pytest.raises(
        EvaluationError, match=rf"image 123 is in {name} but not in .*json.*4 and 3"
    ):
        StreamingCOCOInstanceEvaluator(name)


def remove_box(content):
    del content["annotations"][1]["bbox"]


def remove_images(content):
    del content["images"]


def spoil_segmentation(content):
    content["annotations"][1]["segmentation"] = [["a"]]


def move_to_nowhere(content):
    content["annotations"][1]["image_id"] = 8


def change_category(content):
    content["annotations"][1]["category_id"] = 2


def drop_category(content):
    content["categories"].pop()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (remove_box, r"json: annotation 2.*bbox.*prepare"),
        (remove_images, r"json is no file in COCO's instances format.*images"),
        (spoil_segmentation, r"annotation 2 .*\['a'\], not"),
        (move_to_nowhere, "json: annotation 2 is of image 8"),
        (change_category, "json: annotation 2 is of category 2"),
        (drop_category, r"categories of .*json .*: 91 is in the dataset's metadata alone"),
    ],
)
def test_a_damaged_truth_is_named(scene, tmp_path, breaks, message):
    breaks(scene[0])
    images = scene[0].get("images", [])
    name = register_coco({"images": images} | scene[0], tmp_path)
    if not images:
        (tmp_path / f"{name}.json").write_text(json.dumps(scene[0]))
    with pytest.raises(EvaluationError, match=message):
        StreamingCOCOInstanceEvaluator(name)


@pytest.mark.parametrize("bytes_left", [0, 40, None])
def test_a_torn_file_is_named(tmp_path, bytes_left):
    write_coco(tmp_path, val=2)
    name = coco_panoptic(root=str(tmp_path), split="val", prefix=f"torn_ap_{bytes_left}_")
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    if bytes_left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(
        EvaluationError, match=rf"{file}( is no file in COCO's instances format|: No such file)"
    ):
        StreamingCOCOInstanceEvaluator(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": []}, "no mask"),
        ({"segmentation": [[1.0, 2.0]]}, r"\[1.0, 2.0\], not \[x, y, x, y, ...\] of three points"),
        ({"segmentation": [[1.0, 2.0, 3.0, 4.0, 2e8, 6.0]]}, "200000000.0, far outside"),
        ({"segmentation": {"size": [200, 300], "counts": [[1]]}}, "do not add up"),
        ({"segmentation": encode(np.ones((200, 299)))}, r"\(200, 299\), the image \(200, 300\)"),
        ({"area": None}, '"iscrowd" and "area" must be numbers'),
        ({"iscrowd": None}, '"iscrowd" and "area" must be numbers'),
        ({"bbox": [1, 2, "3", 4]}, '"bbox" four of them'),
        ({"iscrowd": "0"}, "\"iscrowd\" is '0'; write 0 or 1"),
    ],
)
def test_an_annotation_that_cannot_be_is_named_at_the_start(scene, tmp_path, changes, message):
    scene[0]["annotations"][1] |= changes
    with pytest.raises(EvaluationError, match=f"json: annotation 2 of image .*{message}"):
        register_scene(scene, tmp_path)
