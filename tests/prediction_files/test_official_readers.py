"""The official programs score the files as our evaluators do the outputs themselves."""

import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    StreamingCityscapesSemanticEvaluator,
)
from panoptic_dl.evaluation.official import OfficialCOCOInstanceEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import semantic_figures
from tests.evaluation.truth import evaluate
from tests.prediction_files import official
from tests.prediction_files.datasets import coco_scenes, save, streets, toy

EXACT = {"rel": 0, "abs": 1e-10, "nan_ok": True}  # of percentages: 1e-12
CLOSE = {"rel": 0, "abs": 1e-7, "nan_ok": True}
COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def figures_of(evaluator, predicted) -> dict:
    (figures,) = evaluate(evaluator, predicted.items, predicted.outputs).values()
    return figures


def coco_like(name, tmp_path):
    return toy("toy_coco") if name == "toy" else coco_scenes(tmp_path, range(12))


def street_like(name, tmp_path):
    return toy("toy_cityscapes") if name == "toy" else streets(tmp_path, range(8))


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_panopticapi_on_coco(tmp_path, source):
    predicted = coco_like(source, tmp_path)
    save(predicted, "panoptic", tmp_path / "out")
    split = "small7" if source == "drawn" else "val2017"
    file = tmp_path / "out" / "panoptic" / f"panoptic_{split}_panoptic-dl_results.json"
    ours = figures_of(StreamingPanopticEvaluator(predicted.name), predicted)
    theirs = official.quality(predicted.name, file)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["PQ"] < 95


def test_cityscapes_panoptic_script(tmp_path, monkeypatch):
    predicted = toy("toy_cityscapes")
    save(predicted, "panoptic", tmp_path)
    theirs = official.cityscapes_quality(
        predicted.name, tmp_path / "panoptic", tmp_path / "results.json", monkeypatch
    )
    ours = figures_of(StreamingPanopticEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["PQ"] < 95
    # The server's ids: a pixel of road belongs to a segment of category 7, not 0.
    content = json.loads((tmp_path / "panoptic" / "cityscapes_panoptic_val.json").read_text())
    allowed = {label.id for label in EVALUATED}
    for entry, output in zip(content["annotations"], predicted.outputs, strict=True):
        folder = tmp_path / "panoptic" / "cityscapes_panoptic_val"
        colors = np.asarray(Image.open(folder / entry["file_name"])).astype(np.int64)
        assert colors.shape[2] == 3
        ids = colors @ [1, 256, 256**2]
        categories = {segment["id"]: segment["category_id"] for segment in entry["segments_info"]}
        assert set(categories.values()) <= allowed
        panoptic = output["panoptic_seg"][0].numpy()
        assert ((ids == 0) == (panoptic == -1)).all()
        for number, category in categories.items():
            (train_id,) = set((panoptic[ids == number] // 1000).tolist())
            assert EVALUATED[train_id].id == category
    assert 7 in categories.values()


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_cityscapes_pixel_script(tmp_path, source):
    predicted = street_like(source, tmp_path)
    save(predicted, ["semantic", "instances"], tmp_path / "out")  # masks are no second prediction
    theirs = official.cityscapes_iou(predicted.name, tmp_path / "out" / "semantic")
    ours = figures_of(StreamingCityscapesSemanticEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["IoU"] < 95


@pytest.mark.parametrize("source", ["drawn", "toy"])
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_cityscapes_instance_script(tmp_path, source, monkeypatch):
    predicted = street_like(source, tmp_path)
    save(predicted, "instances", tmp_path / "out")
    theirs = official.cityscapes_ap(
        predicted.name, tmp_path / "out" / "instances", tmp_path / "none.json", monkeypatch
    )
    ours = figures_of(StreamingCityscapesInstanceEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **CLOSE)
    assert 2 < theirs["AP"] < 95


def test_cityscapes_files_hold_label_ids_and_whole_scores(tmp_path):
    predicted = streets(tmp_path, range(4))
    save(predicted, ["semantic", "instances"], tmp_path / "out")
    ids = {-1: 0} | {label.trainId: label.id for label in EVALUATED}
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        image = item["image_id"]
        labels = np.asarray(Image.open(tmp_path / f"out/semantic/{image}_pred_labelIds.png"))
        assert labels.dtype == np.uint8
        assert (labels == np.vectorize(ids.get)(output["sem_seg"].numpy())).all()
        lines = (tmp_path / f"out/instances/{image}_pred.txt").read_text().splitlines()
        instances = output["instances"]
        assert len(lines) == len(instances)
        for line, mask, category, score in zip(
            lines, instances.pred_masks, instances.pred_classes, instances.scores, strict=True
        ):
            name, label, confidence = line.split(" ")
            pixels = np.asarray(Image.open(tmp_path / "out/instances" / name))
            assert (pixels == np.where(mask, 255, 0)).all()
            assert int(label) == ids[int(category)]
            assert float(confidence) == float(score)


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_pycocotools(tmp_path, source):
    predicted = coco_like(source, tmp_path)
    save(predicted, "instances", tmp_path / "out")
    (file,) = (tmp_path / "out" / "instances").glob("*.json")
    split = "small7" if source == "drawn" else "val2017"
    assert file.name == f"detections_{split}_panoptic-dl_results.json"
    expected = evaluate(
        OfficialCOCOInstanceEvaluator(predicted.name), predicted.items, predicted.outputs
    )
    for kind, path in (("segm", file), ("bbox", file.parent / "boxes" / file.name)):
        assert ("bbox" in json.loads(path.read_text())[0]) == (kind == "bbox")
        theirs = official.coco_ap(predicted.name, path, kind)[:6]
        wanted = [expected[kind][name] for name in COCO_NAMES]
        assert np.where(theirs < 0, np.nan, theirs).tolist() == pytest.approx(wanted, **CLOSE)
        assert 2 < theirs[0] < 99


def test_coco_ids_and_scores(tmp_path):
    predicted = coco_scenes(tmp_path, range(5))
    save(predicted, ["instances", "semantic"], tmp_path / "out")
    (file,) = (tmp_path / "out" / "instances").glob("*.json")
    entries = json.loads(file.read_text())
    assert entries == sorted(entries, key=lambda entry: entry["image_id"])
    ids = {0: 1, 1: 44, 2: 90}
    expected = [
        (item["image_id"], ids[int(category)], float(score), int(mask.sum()))
        for item, output in zip(predicted.items, predicted.outputs, strict=True)
        if "instances" in output
        for category, score, mask in zip(
            output["instances"].pred_classes,
            output["instances"].scores,
            output["instances"].pred_masks,
            strict=True,
        )
    ]
    found = [
        (e["image_id"], e["category_id"], e["score"], int(coco_mask.area(e["segmentation"])))
        for e in entries
    ]
    assert found == expected


def test_coco_stuff_masks_have_the_figures_of_the_classes(tmp_path):
    """No official program reads them for 133 classes: decode as COCO says, and count."""
    predicted = toy("toy_coco", "semantic")
    save(predicted, "semantic", tmp_path)
    entries = json.loads(
        (tmp_path / "semantic" / "stuff_val2017_panoptic-dl_results.json").read_text()
    )
    metadata = MetadataCatalog.get(predicted.name)
    contiguous = metadata.stuff_dataset_id_to_contiguous_id
    reader, counts = SemanticLabelReader(num_classes=133), np.zeros((133, 134), dtype=np.int64)
    expected = np.zeros_like(counts)
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        truth = reader(item).astype(np.int64)
        valid = truth != 255
        for entry in entries:
            if entry["image_id"] == item["image_id"]:
                mask = coco_mask.decode(entry["segmentation"]).astype(bool) & valid
                column = contiguous[entry["category_id"]]
                counts[:, column] += np.bincount(truth[mask], minlength=133)
        classes = output["sem_seg"].argmax(dim=0).numpy()
        np.add.at(expected, (truth[valid], classes[valid]), 1)
    names = list(metadata.stuff_classes)
    assert (counts == expected).all()
    assert 5 < 100 * semantic_figures(counts, names)["mIoU"] < 95
