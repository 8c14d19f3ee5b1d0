"""What the streaming AP of COCO refuses, by name."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.datasets.coco import coco_panoptic
from panoptic_dl.evaluation.coco_instances import StreamingCOCOInstanceEvaluator
from tests.data.small import write_coco
from tests.evaluation.coco_scenes import (
    annotate,
    draw_mask,
    encode,
    register_coco,
    truth_of_scenes,
)
from tests.evaluation.truth import make_instances


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
    with pytest.raises(EvaluationError, match=r"no truth for image 8 in .*json"):
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
        (break_score, "score of a predicted instance is not finite"),
        (break_score_infinite, "score of a predicted instance is not finite"),
        (break_box, "box of a predicted instance is not finite"),
        (break_masks, r"mask is \(300, 200\), the truth \(200, 300\)"),
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


def repeat_number(content):
    content["annotations"][1]["id"] = 1


def move_to_nowhere(content):
    content["annotations"][1]["image_id"] = 8


def change_category(content):
    content["annotations"][1]["category_id"] = 2


def drop_category(content):
    content["categories"].pop()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (remove_box, r"json is no readable COCO instances file .*annotation 2.*bbox.*prepare"),
        (remove_images, r"json is no readable COCO instances file .*images"),
        (spoil_segmentation, "no readable COCO instances file .*annotation 2"),
        (repeat_number, "two annotations with the id 1"),
        (move_to_nowhere, "annotation 2 of .*json is of image 8"),
        (change_category, "annotation 2 of .*json is of category 2"),
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
    with pytest.raises(EvaluationError, match=f"{file} is no readable COCO instances file"):
        StreamingCOCOInstanceEvaluator(name)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "annotation 2 cannot be read"),
        ([[1.0, 2.0]], "annotation 2 cannot be read"),
        ({"size": [200, 300], "counts": [[1]]}, "annotation 2 cannot be read"),
        (encode(np.ones((200, 299))), r"annotation 2 is \(200, 299\), the image \(200, 300\)"),
    ],
)
def test_a_segmentation_that_cannot_be_is_named_with_its_image(
    scene, tmp_path, segmentation, message
):
    scene[0]["annotations"][1]["segmentation"] = segmentation
    _, records, evaluator = register_scene(scene, tmp_path)
    with pytest.raises(EvaluationError, match=f"image {records[1]['image_id']}: .*{message}"):
        evaluator.process(records, [{}] * 3)
