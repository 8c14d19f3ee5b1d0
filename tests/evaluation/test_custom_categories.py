"""Figures of data with any categories: those of panopticapi, pycocotools and Detectron2."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.config.builder import find_target
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.evaluation.coco_instances import (
    StreamingCOCOInstanceEvaluator,
    panoptic_instances,
)
from panoptic_dl.evaluation.metrics import evaluator_configs
from panoptic_dl.evaluation.official import OfficialPanopticEvaluator, pair_up, require_agreement
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.predictions.folder import PredictionFolder, prediction_writers
from tests.datasets.tiny_custom import CATEGORIES, write_own

TABLES = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 2**40), "isthing": st.integers(0, 1)},
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda category: category["id"],
).map(lambda table: [c | {"name": f"class {i}"} for i, c in enumerate(table)])
FEW = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def own(root, task="panoptic", form="coco_format"):
    classes = custom_classes(form=form, root=str(root), train_split="val", test_split="val")
    return custom_dataset(
        form=form, task=task, part="test", classes=classes, root=str(root), split="val"
    )


def predict(dataset, seed):
    """Inputs and outputs of a model that is right now and then."""
    metadata = MetadataCatalog.get(dataset)
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    number = len(metadata.stuff_classes)
    for index, record in enumerate(DatasetCatalog.get(dataset)):
        random = np.random.default_rng([seed, index])
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
        panoptic = np.full(ids.shape, -1, dtype=np.int64)
        masks, found, scores = [], [], []
        for place, segment in enumerate(record["segments_info"]):
            chance = random.random()
            category = segment["category_id"]
            if chance < 0.15:
                continue
            if chance < 0.3:
                category = int(random.integers(number))
            mask = np.roll(ids == segment["id"], int(random.integers(-2, 3)), axis=1)
            instance = place + 1 if category in things else 0
            panoptic[mask] = category * 1000 + instance
            if category in things:
                masks.append(mask)
                found.append(sorted(things).index(category))
                scores.append(float(random.choice([0.25, 0.5, 0.75])))
        masks_ = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *ids.shape))
        boxes = [mask_util.toBbox(mask_util.encode(np.asfortranarray(m, np.uint8))) for m in masks]
        corners = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
        corners[:, 2:] += corners[:, :2]
        instances = Instances(
            ids.shape,
            pred_masks=masks_,
            pred_boxes=Boxes(corners),
            pred_classes=torch.tensor(found, dtype=torch.long),
            scores=torch.tensor(scores),
        )
        # 0..K-1 where something is predicted, as scores
        classes = torch.from_numpy(np.where(panoptic < 0, 0, panoptic // 1000))
        logits = torch.nn.functional.one_hot(classes, number).permute(2, 0, 1).float()
        output = {
            "panoptic_seg": (torch.from_numpy(panoptic), None),
            "instances": instances,
            "sem_seg": logits,
        }
        yield record, output


def measure(evaluator, pairs):
    evaluator.reset()
    for record, output in pairs:
        evaluator.process([record], [output])
    return evaluator.evaluate()


def by_panopticapi(root, folder):
    """PQ, SQ, RQ by the authors' own driver, from the files of a split and of predictions."""
    truth = json.loads((root / "annotations" / "panoptic_val.json").read_text(encoding="utf-8"))
    for annotation in truth["annotations"]:
        png = np.asarray(Image.open(root / "panoptic_val" / annotation["file_name"]))
        for segment in annotation["segments_info"]:  # their script insists on both
            segment["area"] = int((rgb2id(png) == segment["id"]).sum())
            segment.setdefault("iscrowd", 0)
    complete = folder / "truth.json"
    complete.write_text(json.dumps(truth))
    (predicted,) = (folder / "panoptic").glob("*.json")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return pq_compute(
                str(complete),
                str(predicted),
                str(root / "panoptic_val"),
                str(predicted.with_suffix("")),
            )
        except ZeroDivisionError:  # their driver knows no dataset without things, or stuff
            return None


@FEW
@given(table=TABLES, seed=st.integers(0, 2**16))
def test_panoptic_quality_of_any_categories_is_panopticapis(tmp_path_factory, table, seed):
    tmp_path = tmp_path_factory.mktemp("own")
    root = write_own(tmp_path / "data", categories=table, val=2)
    dataset = own(root)
    pairs = list(predict(dataset, seed))
    ours = measure(StreamingPanopticEvaluator(dataset), pairs)
    theirs = measure(OfficialPanopticEvaluator(dataset), pairs)
    require_agreement(pair_up(ours, theirs))

    (writer,) = prediction_writers(dataset, "panoptic", tmp_path / "out")
    measure(writer, pairs)
    (file,) = (tmp_path / "out" / "panoptic").glob("*.json")
    written = json.loads(file.read_text())
    known = {category["id"] for category in table}
    for entry in written["annotations"]:
        assert {segment["category_id"] for segment in entry["segments_info"]} <= known
    reader = PredictionFolder(dataset, tmp_path / "out", ["panoptic"])
    for record, output in pairs:
        again = reader(record)["panoptic_seg"][0]
        assert torch.equal(again, output["panoptic_seg"][0])
    plain = by_panopticapi(root, tmp_path / "out")
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for name in ("PQ", "SQ", "RQ") if plain else ():
            value = 100 * plain[group][name.lower()]
            assert ours["panoptic_seg"][name + suffix] == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("form", ["coco_format", "cityscapes_format"])
@pytest.mark.parametrize("kind", ["all", "things", "stuff"])
def test_all_figures_agree_with_the_official_evaluators(tmp_path, form, kind):
    chosen = [c for c in CATEGORIES if kind == "all" or bool(c["isthing"]) == (kind == "things")]
    root = write_own(tmp_path, form=form, categories=chosen, val=4)
    dataset = own(root, form=form)
    pairs = list(predict(dataset, 3))
    configs = evaluator_configs("custom")
    for name, config in configs["streaming"]["panoptic"].items():
        ours, theirs = (
            measure(find_target(target["_target_"])(dataset=dataset), pairs)
            for target in (config, configs["official"]["panoptic"][name])
        )
        compared = pair_up(ours, theirs)
        assert compared
        require_agreement(compared)
        known = [pair.own for pair in compared if not math.isnan(pair.own)]
        if name == "instances" and kind == "stuff":
            assert not known
        else:
            assert any(0 < value < 100 for value in known), name


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path):
    root = write_own(tmp_path, val=2)
    file = root / "annotations" / "panoptic_val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for index, image in enumerate(content["images"]):
        (root / "val" / str(index)).mkdir()
        (root / "val" / image["file_name"]).rename(root / "val" / str(index) / "same.png")
        image["file_name"] = f"{index}/same.png"
    file.write_text(json.dumps(content))
    dataset = own(root)
    pairs = list(predict(dataset, 1))
    ours, theirs = (
        measure(evaluator(dataset), pairs)
        for evaluator in (StreamingPanopticEvaluator, OfficialPanopticEvaluator)
    )
    require_agreement(pair_up(ours, theirs))


def test_true_instances_are_the_things_of_the_label(tmp_path):
    root = write_own(tmp_path, val=3)
    dataset = own(root)
    things = set(MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id.values())
    for record in DatasetCatalog.get(dataset):
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
        of_image = panoptic_instances(record, things)
        assert of_image.size == ids.shape
        expected = [s for s in record["segments_info"] if s["category_id"] in things]
        assert len(expected) == len(of_image.instances) > 0
        for segment, instance in zip(expected, of_image.instances, strict=True):
            mask = ids == segment["id"]
            assert (mask_util.decode(instance["segmentation"]) == mask).all()
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            box = [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert instance["bbox"] == box
            assert instance["area"] == mask.sum()
            for key in ("category_id", "iscrowd"):
                assert instance[key] == segment[key]


def test_what_is_right_has_an_ap_of_100_and_what_is_empty_is_not_asked_for(tmp_path):
    root = write_own(tmp_path, val=2)
    file = root / "annotations" / "panoptic_val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    hidden = {"id": 5, "category_id": 7}  # listed, without a pixel
    content["annotations"][0]["segments_info"].append(hidden)
    file.write_text(json.dumps(content))
    dataset = own(root)
    things = MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id.values()
    pairs = []
    for record in DatasetCatalog.get(dataset):
        size, true = panoptic_instances(record, things)
        found = [i for i in true if not i["iscrowd"]]
        boxes = torch.tensor([i["bbox"] for i in found])
        boxes[:, 2:] += boxes[:, :2]
        masks = np.array([mask_util.decode(i["segmentation"]) for i in found], dtype=bool)
        instances = Instances(
            size,
            pred_masks=torch.from_numpy(masks),
            pred_boxes=Boxes(boxes),
            pred_classes=torch.tensor([i["category_id"] for i in found]),
            scores=torch.ones(len(found)),
        )
        pairs.append((record, {"instances": instances}))
    figures = measure(StreamingCOCOInstanceEvaluator(dataset), pairs)
    assert figures["bbox"]["AP"] == figures["segm"]["AP"] == pytest.approx(100)


def test_a_label_that_went_missing_is_named(tmp_path):
    from panoptic_dl.core.errors import EvaluationError

    root = write_own(tmp_path, val=1)
    dataset = own(root)
    evaluator = StreamingCOCOInstanceEvaluator(dataset)
    ((record, output),) = predict(dataset, 0)
    Path(record["pan_seg_file_name"]).write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match=r"label-0\.png"):
        measure(evaluator, [(record, output)])
