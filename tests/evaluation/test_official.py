"""The official evaluators: what they measure, refuse, and how ours are compared with them."""

import copy
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    StreamingCityscapesSemanticEvaluator,
    to_label_ids,
)
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    OfficialCityscapesSemanticEvaluator,
    OfficialCOCOInstanceEvaluator,
    OfficialPanopticEvaluator,
    OfficialSemanticEvaluator,
    pair_up,
    require_agreement,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from tests.datasets.tiny_datasets import write_cityscapes, write_coco
from tests.evaluation.model_outputs import REAL, evaluate, make_instances, predict
from tests.evaluation.scenes import semantic_scores, write_street_labels

CITYSCAPES = {"num_classes": 19, "thing_ids": set(range(11, 19))}
COCO = {"num_classes": 133, "thing_ids": set(range(80))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_cityscapes(root, val=3)
    write_coco(root, val=3)
    return root


@pytest.fixture(scope="module")
def cityscapes(root):
    return cityscapes_panoptic(root=str(root), split="val", prefix="official_")


@pytest.fixture(scope="module")
def coco(root):
    return coco_panoptic(root=str(root), split="val", prefix="official_")


def truth_of(name, kind):
    records = DatasetCatalog.get(name)
    return records, [predict(record, **kind) for record in records]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Evaluators must not write into the user's folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert os.listdir(folder) == []


def nothing(outputs):
    """A model that sees void everywhere, one class in the semantic branch, and no instances."""
    return [
        {
            "panoptic_seg": (torch.full_like(output["panoptic_seg"][0], -1), None),
            "sem_seg": torch.zeros_like(output["sem_seg"]),
        }
        for output in outputs
    ]


@pytest.mark.parametrize("kind", ["cityscapes", "coco"])
def test_the_truth_has_panoptic_quality_100(cityscapes, coco, kind):
    name, options = {"cityscapes": (cityscapes, CITYSCAPES), "coco": (coco, COCO)}[kind]
    records, outputs = truth_of(name, options)
    before = [output["panoptic_seg"][0].clone() for output in outputs]
    figures = evaluate(OfficialPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    assert figures == {
        key + suffix: 100.0 for key in ("PQ", "SQ", "RQ") for suffix in ("", "_th", "_st")
    }
    for output, panoptic in zip(outputs, before, strict=True):  # Detectron2 adds 1 in place
        assert torch.equal(output["panoptic_seg"][0], panoptic)


def test_labels_in_archives_are_measured_as_those_in_folders(root, coco, tmp_path):
    source = root / "coco"
    shutil.copytree(source / "annotations", tmp_path / "coco/annotations")
    for name in ("val2017", "panoptic_val2017"):
        target = tmp_path / "coco" / name
        shutil.make_archive(str(target), "zip", source, name)
    packed = coco_panoptic(root=str(tmp_path), split="val", prefix="packed_")
    for evaluator in (OfficialPanopticEvaluator, StreamingPanopticEvaluator):
        found = [
            evaluate(evaluator(name), DatasetCatalog.get(name), truth_of(coco, COCO)[1])
            for name in (coco, packed)
        ]
        assert found[0]["panoptic_seg"]["PQ"] == found[1]["panoptic_seg"]["PQ"] == 100
    read = [
        OfficialSemanticEvaluator(name).sem_seg_loading_fn(r["file_name"], np.int64)
        for name in (coco, packed)
        for r in DatasetCatalog.get(name)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(read[:3], read[3:], strict=True))


def test_panoptic_quality_equals_detectron2s_driver(cityscapes):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    generator = torch.Generator().manual_seed(0)
    for output in outputs:  # a model that errs
        panoptic = output["panoptic_seg"][0]
        panoptic[torch.rand(panoptic.shape, generator=generator) < 0.2] = 2000
        panoptic[:, 30:50] = panoptic[:, 30:50].roll(3, 1)
    ours = evaluate(OfficialPanopticEvaluator(cityscapes), records, outputs)
    theirs = evaluate(COCOPanopticEvaluator(cityscapes), records, outputs)
    assert ours["panoptic_seg"] == pytest.approx(dict(theirs["panoptic_seg"]), abs=1e-12)
    assert 10 < ours["panoptic_seg"]["PQ"] < 90


def test_segments_of_a_model_are_left_as_they_are(coco):
    records, outputs = truth_of(coco, COCO)
    for output in outputs:
        ids = output["panoptic_seg"][0] + 1
        segments = [
            {"id": int(i), "category_id": int(i - 1) // 1000, "isthing": bool((i - 1) // 1000 < 80)}
            for i in ids.unique()
            if i > 0
        ]
        output["panoptic_seg"] = (ids, segments)
    before = copy.deepcopy([output["panoptic_seg"][1] for output in outputs])
    figures = evaluate(OfficialPanopticEvaluator(coco), records, outputs)["panoptic_seg"]
    assert figures["PQ"] == 100.0
    assert [output["panoptic_seg"][1] for output in outputs] == before


@pytest.mark.parametrize("kind", ["cityscapes", "coco"])
def test_nothing_has_panoptic_quality_0(cityscapes, coco, kind):
    name, options = {"cityscapes": (cityscapes, CITYSCAPES), "coco": (coco, COCO)}[kind]
    records, outputs = truth_of(name, options)
    figures = evaluate(OfficialPanopticEvaluator(name), records, nothing(outputs))["panoptic_seg"]
    assert set(figures.values()) == {0.0}


def test_without_any_thing_their_figures_are_not_a_number(tmp_path):
    root = write_coco(tmp_path / "stuff", with_things=False, val=1)
    name = coco_panoptic(root=str(root), split="val", prefix="stuff_only_")
    records, outputs = truth_of(name, COCO)
    figures = evaluate(OfficialPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    assert figures["PQ"] == figures["PQ_st"] == 100.0
    assert math.isnan(figures["PQ_th"])
    results = evaluate(OfficialCOCOInstanceEvaluator(name), records, outputs)
    assert math.isnan(results["segm"]["AP"])


def test_a_missing_prediction_is_named(cityscapes):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    for factory in (OfficialCityscapesSemanticEvaluator, OfficialCityscapesInstanceEvaluator):
        with pytest.raises(EvaluationError, match=r"gave up: .*prediction .*aachen_000000"):
            evaluate(factory(cityscapes), records[1:], outputs[1:])


def test_wrong_areas_in_the_truth_are_an_error(tmp_path):
    root = write_coco(tmp_path / "wrong", val=1)
    file = root / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    for segment in content["annotations"][0]["segments_info"]:
        segment["area"] = 1
    file.write_text(json.dumps(content))
    name = coco_panoptic(root=str(root), split="val", prefix="wrong_")
    records, outputs = truth_of(name, COCO)
    with pytest.raises(EvaluationError, match=r"no percentage.*Areas in the JSON"):
        evaluate(OfficialPanopticEvaluator(name), records, outputs)


def test_areas_that_are_null_are_counted(tmp_path):
    """As pandas and other exporters leave them; panopticapi has a TypeError for them."""
    root = write_coco(tmp_path / "null", val=1)
    file = root / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    for segment in content["annotations"][0]["segments_info"]:
        segment["area"] = None
    file.write_text(json.dumps(content))
    name = coco_panoptic(root=str(root), split="val", prefix="null_")
    records, outputs = truth_of(name, COCO)
    official = evaluate(OfficialPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    ours = evaluate(StreamingPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    assert official["PQ"] == ours["PQ"] == 100.0
    assert ours["num_wrong_areas"] == 0


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_the_truth_has_semantic_iou_100_on_cityscapes(root, cityscapes, task):
    _, outputs = truth_of(cityscapes, CITYSCAPES)
    name = cityscapes
    if task == "semantic":
        name = cityscapes_semantic(root=str(root), split="val", prefix="official_")
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    results = evaluate(OfficialCityscapesSemanticEvaluator(name), records, outputs)
    # Thing pixels of crowds are things for the semantic evaluator too.
    assert results["sem_seg"]["IoU"] == 100.0
    assert headline(results) == {"mIoU": 100.0}


def test_one_class_everywhere_has_its_own_iou_on_cityscapes(cityscapes):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    results = evaluate(OfficialCityscapesSemanticEvaluator(cityscapes), records, nothing(outputs))
    assert 0 < results["sem_seg"]["IoU"] < 15  # road alone, the other classes count as 0


def test_the_truth_has_instance_ap_100_on_cityscapes(cityscapes, tmp_path):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    results = evaluate(OfficialCityscapesInstanceEvaluator(cityscapes), records, outputs)
    assert results == {"segm": {"AP": 100.0, "AP50": 100.0}}
    assert headline(results) == {"AP": 100.0}


def test_no_instances_have_ap_0(cityscapes, coco):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    results = evaluate(OfficialCityscapesInstanceEvaluator(cityscapes), records, nothing(outputs))
    assert results["segm"] == {"AP": 0.0, "AP50": 0.0}
    records, outputs = truth_of(coco, COCO)
    results = evaluate(OfficialCOCOInstanceEvaluator(coco), records, nothing(outputs))
    assert headline(results) == {"box_AP": 0.0, "mask_AP": 0.0}


def test_predictions_on_ignored_regions_only_have_ap_0_on_cityscapes(cityscapes):
    """The official script raises IndexError here."""
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    for output in outputs:
        mask = np.zeros((1, *output["panoptic_seg"][0].shape), dtype=bool)
        mask[0, 18:26, 62:78] = True  # inside the group of cars
        instances = output["instances"]
        persons = instances[instances.pred_classes == 11]
        persons.pred_masks[:, 30:] = False  # IoU 0.76: found at 6 of 10 overlaps
        group = make_instances(mask, [13], [0.9])
        output["instances"] = type(persons).cat([group, persons])
    results = evaluate(OfficialCityscapesInstanceEvaluator(cityscapes), records, outputs)
    # The mean of persons and cars, which have 0.
    assert results["segm"] == pytest.approx({"AP": 30.0, "AP50": 50.0})


def test_the_truth_has_box_and_mask_ap_100_on_coco(coco):
    records, outputs = truth_of(coco, COCO)
    del outputs[0]["instances"]  # the first image has none: Detectron2 looks only there
    results = evaluate(OfficialCOCOInstanceEvaluator(coco), records, outputs)
    assert 60 < results["segm"]["AP"] < 70  # 4 of 6 persons
    records, outputs = truth_of(coco, COCO)
    results = evaluate(OfficialCOCOInstanceEvaluator(coco), records, outputs)
    assert headline(results) == {"box_AP": 100.0, "mask_AP": 100.0}
    assert results["segm"]["AP-person"] == 100.0
    assert math.isnan(results["segm"]["AP-toothbrush"])  # only a crowd of them


def test_semantic_iou_from_panoptic_labels(root):
    name = coco_semantic(root=str(root), split="val", prefix="official_")
    evaluator = OfficialSemanticEvaluator(name)
    records, outputs = truth_of(name, COCO)
    assert headline(evaluate(evaluator, records, outputs)) == {"mIoU": 100.0}
    figures = evaluate(evaluator, records, nothing(outputs))["sem_seg"]
    shares = []
    for record in records:
        label = SemanticLabelReader(num_classes=133)(record)
        shares.append(((label == 0).sum(), (label != 255).sum()))
    persons, labelled = np.sum(shares, axis=0)
    # Everything is a person: 3 classes are there, two are never found.
    assert figures["mIoU"] == pytest.approx(100 * persons / labelled / 3)
    assert math.isnan(figures["IoU-car"])
    assert name in DatasetCatalog
    assert not [key for key in DatasetCatalog if "labels from its records" in key]


def test_an_exit_of_an_official_script_is_an_error(cityscapes):
    records, outputs = truth_of(cityscapes, CITYSCAPES)
    outputs[0]["sem_seg"] = outputs[0]["sem_seg"][:, :-1]  # the script exits on other sizes
    with pytest.raises(EvaluationError, match=r"gave up: Image heights of .*aachen_000000"):
        evaluate(OfficialCityscapesSemanticEvaluator(cityscapes), records, outputs)


@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_the_truth_of_real_images_has_100_in_every_figure():
    name = coco_panoptic(root=str(REAL), split="val", prefix="real_")
    records = DatasetCatalog.get(name)
    assert len(records) == 100
    evaluators = [
        OfficialPanopticEvaluator(name),
        OfficialCOCOInstanceEvaluator(name),
    ]
    for evaluator in evaluators:
        evaluator.reset()
    for record in records:
        output = predict(record, **COCO, with_logits=False)
        for evaluator in evaluators:
            evaluator.process([record], [output])
    figures = headline({k: v for e in evaluators for k, v in e.evaluate().items()})
    assert figures == dict.fromkeys(figures, 100.0)
    assert len(figures) == 11


OWN = {
    "panoptic_seg": {"PQ": 50.0, "PQ-road": 70.0, "num_images": 3},
    "segm": {"AP": 20.0, "AP50": math.nan},
}


def official(**changes: float) -> dict:
    figures = {"PQ": 50.0, "AP": 20.0, "AP50": math.nan} | changes
    return {
        "panoptic_seg": {"PQ": figures["PQ"]},
        "segm": {name: figures[name] for name in ("AP", "AP50")},
    }


def test_shared_figures_are_paired():
    pairs = pair_up(OWN, official())
    assert [(p.task, p.name) for p in pairs] == [
        ("panoptic_seg", "PQ"),
        ("segm", "AP"),
        ("segm", "AP50"),
    ]
    require_agreement(pairs)


@pytest.mark.parametrize("change", [{"PQ": 50 + 9e-11}, {"AP": 20 - 9e-8}])
def test_rounding_is_no_difference(change):
    require_agreement(pair_up(OWN, official(**change)))


@pytest.mark.parametrize(
    "change", [{"PQ": 50 + 2e-10}, {"AP": 20 - 2e-7}, {"AP50": 0.0}, {"AP": math.nan}]
)
def test_what_lies_beyond_is_an_error_that_names_the_metric(change):
    with pytest.raises(EvaluationError, match=rf"1 of 3 metrics .*\.{next(iter(change))} "):
        require_agreement(pair_up(OWN, official(**change)))


def test_an_official_task_that_we_do_not_have_is_an_error():
    with pytest.raises(EvaluationError, match="sem_seg"):
        pair_up(OWN, official() | {"sem_seg": {"mIoU": 1.0}})


def streets(folder):
    labels = folder / "gtFine"
    images = [write_street_labels(labels, seed) for seed in range(6)]
    if "class_map_streets" in MetadataCatalog.list():
        MetadataCatalog.remove("class_map_streets")
    MetadataCatalog.get("class_map_streets").gt_dir = str(labels)
    records = [{"file_name": f"{image}_leftImg8bit.png"} for image in images]
    return records, [semantic_scores(labels, image, seed) for seed, image in enumerate(images)]


def test_cityscapes_script_takes_classes(tmp_path):
    records, scores = streets(tmp_path)
    evaluator = OfficialCityscapesSemanticEvaluator("class_map_streets")
    by_scores, by_classes = (
        evaluate(evaluator, records, [{"sem_seg": value} for value in values])
        for values in (scores, [value.argmax(dim=0) for value in scores])
    )
    assert by_classes == by_scores
    assert 5 < by_scores["sem_seg"]["IoU"] < 95


@pytest.mark.parametrize("none", [-1, 19, 255])
def test_cityscapes_script_counts_pixels_without_class_as_missed(tmp_path, none):
    records, scores = streets(tmp_path)
    outputs = [{"sem_seg": value.argmax(dim=0)} for value in scores]
    for output in outputs:
        output["sem_seg"][3:20] = none
    theirs = evaluate(OfficialCityscapesSemanticEvaluator("class_map_streets"), records, outputs)
    ours = evaluate(StreamingCityscapesSemanticEvaluator("class_map_streets"), records, outputs)
    expected = pytest.approx(theirs["sem_seg"], rel=0, abs=1e-10, nan_ok=True)
    assert {name: ours["sem_seg"][name] for name in theirs["sem_seg"]} == expected


def test_label_ids():
    classes = np.array([[-5, -1, 0, 13], [18, 19, 254, 255]])
    assert to_label_ids(classes).tolist() == [[0, 0, 7, 26], [33, 0, 0, 0]]
    assert to_label_ids(np.arange(19)).tolist() == [label.id for label in EVALUATED]


@pytest.fixture
def classes_and_evaluator(tmp_path):
    records = [
        {"file_name": name, "sem_seg_file_name": str(tmp_path / name)}
        for name in ("a.png", "b.png")
    ]
    DatasetCatalog.register("class_maps", lambda: records)
    MetadataCatalog.get("class_maps").set(stuff_classes=list("abcd"), ignore_label=9)
    draw = np.random.default_rng(0)
    truth = {record["file_name"]: draw.integers(0, 4, (6, 7)) for record in records}
    truth["a.png"][0] = 9
    for name, label in truth.items():
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / name)
    classes = torch.from_numpy(draw.integers(0, 4, (2, 6, 7)))
    yield records, classes, OfficialSemanticEvaluator("class_maps")
    DatasetCatalog.remove("class_maps")
    MetadataCatalog.remove("class_maps")


def test_detectron2s_evaluator_takes_classes(classes_and_evaluator):
    records, classes, evaluator = classes_and_evaluator
    scores = torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float()
    by_scores, by_classes = (
        evaluate(evaluator, records, [{"sem_seg": value} for value in values])
        for values in (scores, classes)
    )
    assert by_classes == by_scores
    assert 5 < by_scores["sem_seg"]["mIoU"] < 95


@pytest.mark.parametrize("none", [-1, 4, 255])
def test_detectron2s_evaluator_cannot_express_none(classes_and_evaluator, none):
    records, classes, evaluator = classes_and_evaluator
    classes[0, 2, 3] = none
    with pytest.raises(
        EvaluationError, match=r"image a.png: .*cannot express.*evaluation.official"
    ):
        evaluate(evaluator, records, [{"sem_seg": value} for value in classes])
