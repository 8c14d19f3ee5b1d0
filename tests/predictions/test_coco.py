"""COCO's JSON files: what the official programs measure, and damaged files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools import mask as coco_mask

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.evaluation.official import OfficialCOCOInstanceEvaluator
from panoptic_dl.evaluation.semantic import semantic_metrics
from panoptic_dl.predictions.folder import PredictionFolder
from tests.evaluation.model_outputs import evaluate
from tests.predictions import official
from tests.predictions.datasets import coco_scenes, save, toy

CLOSE = {"rel": 0, "abs": 1e-7, "nan_ok": True}

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_like(name, tmp_path):
    return toy("toy_coco") if name == "toy" else coco_scenes(tmp_path, range(12))


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
    assert 5 < 100 * semantic_metrics(counts, names)["mIoU"] < 95


def change(file: Path, edit) -> None:
    content = json.loads(file.read_text())
    edited = edit(content)
    file.write_text(json.dumps(edited if isinstance(edited, list) else content))


def with_entry(content) -> dict:
    return next(e for e in content if e["image_id"] == 5 and sum(e["segmentation"]["size"]))


@pytest.mark.parametrize("kind", ["instances", "semantic"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.update(category_id=3), "image 5 has the unknown category 3: .*own ids"),
        (lambda e: e.update(category_id=[3]), 'no valid "category_id"'),
        (lambda e: e.update(segmentation=[[1, 2, 3]]), "no run-length code"),
        (lambda e: e.pop("segmentation"), "no run-length code"),
        (lambda e: e["segmentation"].update(size=[18, 14]), r"\(18, 14\), the image \(14, 18\)"),
        (lambda e: e["segmentation"].update(counts="1"), "damaged .*add up"),
        (lambda e: e["segmentation"].update(counts=""), "damaged .*add up"),
        (lambda e: e["segmentation"].update(counts="zzzz"), "damaged"),
        (lambda e: e["segmentation"].update(counts="é"), "damaged"),
        (lambda e: e["segmentation"].update(counts=3), "damaged .*add up"),
        (lambda e: e["segmentation"].update(counts=[3, 4]), "damaged .*add up"),
    ],
)
def test_masks_that_cannot_be(saved_coco, tmp_path, kind, edit, message):
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    shutil.rmtree(file.parent / "boxes", ignore_errors=True)  # which would have other detections
    change(file, lambda content: edit(with_entry(content)))
    with pytest.raises(EvaluationError, match=f"{re.escape(str(file))}.*{message}"):
        PredictionFolder(saved_coco.name, tmp_path / "out")(saved_coco.items[0])


def test_masks_as_lists_of_counts(saved_coco, tmp_path):
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def edit(content):
        with_entry(content)["segmentation"]["counts"] = [14, 14, 14 * 16]

    change(file, edit)
    masks = PredictionFolder(saved_coco.name, tmp_path / "out")(saved_coco.items[0])[
        "instances"
    ].pred_masks
    expected = np.zeros((14, 18), dtype=bool)
    expected[:, 1] = True  # counts run down the columns
    assert any((mask.numpy() == expected).all() for mask in masks)


def test_valid_codes_that_pycocotools_would_write_otherwise(saved_coco, tmp_path):
    """Runs of no pixels are allowed: 14, 0, 0, 14 and the rest."""
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def edit(content):
        # 14, 0, 0, then 14 - 0 and 224 - 0 as differences to the last but one
        with_entry(content)["segmentation"]["counts"] = ">00>P7"

    change(file, edit)
    masks = PredictionFolder(saved_coco.name, tmp_path / "out")(saved_coco.items[0])[
        "instances"
    ].pred_masks
    expected = np.zeros((14, 18), dtype=bool)
    expected[:, 1] = True
    assert any((mask.numpy() == expected).all() for mask in masks)


def test_detections_for_another_split_are_no_empty_ones(saved_coco, tmp_path, caplog):
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def others(content):
        content[0]["image_id"] = 4711

    shutil.rmtree(file.parent / "boxes")
    change(file, others)
    PredictionFolder(saved_coco.name, tmp_path / "out")
    assert "1 images that are not in" in caplog.text
    change(file, lambda content: [entry | {"image_id": 4711} for entry in content])
    with pytest.raises(EvaluationError, match=r"other images than those of .*4711"):
        PredictionFolder(saved_coco.name, tmp_path / "out")


def test_boxes_are_those_of_the_file_where_it_has_them(saved_coco, tmp_path):
    """A detector's boxes are not those around its masks."""
    file = tmp_path / "out" / "instances" / "detections_small7_panoptic-dl_results.json"
    item = saved_coco.items[0]

    def read() -> np.ndarray:
        output = PredictionFolder(saved_coco.name, tmp_path / "out")(item)
        return output["instances"].pred_boxes.tensor.numpy()

    assert len(read()) > 0
    change(file, lambda content: [e | {"bbox": [0, 1, 2, 2.5]} for e in content])
    assert (read() == [0, 1, 2, 3.5]).all()
    change(file, lambda content: [e | {"bbox": [0, 1, 2]} for e in content])
    with pytest.raises(EvaluationError, match=r"a \"bbox\" in image .* not \[left, top, width"):
        read()


def test_boxes_alone_have_no_masks(saved_coco, tmp_path):
    folder = tmp_path / "out" / "instances"
    (masks,), (boxes,) = folder.glob("*.json"), folder.glob("boxes/*.json")
    shutil.copy(boxes, masks)
    with pytest.raises(EvaluationError, match="holds boxes and no masks"):
        PredictionFolder(saved_coco.name, tmp_path / "out")


def test_classes_that_overlap(saved_coco, tmp_path):
    (file,) = (tmp_path / "out" / "semantic").glob("*.json")
    whole = [0, 14 * 18]

    def edit(content):
        size = [14, 18]
        content += [
            {"image_id": 5, "category_id": c, "segmentation": {"size": size, "counts": whole}}
            for c in (1, 44)
        ]

    change(file, edit)
    with pytest.raises(EvaluationError, match="masks of image 5 overlap"):
        PredictionFolder(saved_coco.name, tmp_path / "out")(saved_coco.items[0])


def test_missing_images(saved_coco, tmp_path):
    (file,) = (tmp_path / "out" / "semantic").glob("*.json")
    change(file, lambda content: [entry for entry in content if entry["image_id"] != 5])
    with pytest.raises(EvaluationError, match=r"no prediction for image 5 in .*whole split"):
        PredictionFolder(saved_coco.name, tmp_path / "out")(saved_coco.items[0])
    with pytest.raises(EvaluationError, match="image 99 is none of"):
        PredictionFolder(saved_coco.name, tmp_path / "out")({"image_id": 99, "file_name": "99.jpg"})
