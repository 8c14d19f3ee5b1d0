"""Readers: files that cannot be right."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import PredictionFolder

STEM = "panoptic_small7_panoptic-dl_results"


def change(file: Path, edit) -> None:
    content = json.loads(file.read_text())
    edited = edit(content)
    file.write_text(json.dumps(edited if isinstance(edited, list) else content))


@pytest.mark.parametrize("kind", KINDS)
def test_torn_json(saved_coco, tmp_path, kind):
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    file.write_bytes(file.read_bytes()[:-200])
    message = f"{re.escape(str(file))} is no readable JSON file .*again"
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_coco.name, tmp_path / "out")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: [], "no panoptic result"),
        (lambda c: c.update(annotations=3), "holds no list"),
        (lambda c: c["annotations"].append(3), 'entry 6 has no valid "image_id"'),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), "lists image 5 twice"),
        (lambda c: c["annotations"][0].pop("file_name"), 'entry 0 has no valid "file_name"'),
    ],
)
def test_panoptic_files_that_are_none(saved_coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_coco.name, tmp_path / "out")


def busy(content) -> dict:
    """The first image's entry, which has segments."""
    assert content["annotations"][0]["segments_info"]
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"].pop(0), "no prediction for image 5 in .*json.*whole split"),
        (lambda c: busy(c)["segments_info"].pop(), r"000005\.png holds segment .*not list"),
        (
            lambda c: busy(c)["segments_info"].append({"id": 9, "category_id": 1}),
            "lists segment 9 .*no pixel",
        ),
        (
            lambda c: busy(c)["segments_info"].append(busy(c)["segments_info"][0]),
            "listed twice",
        ),
        (lambda c: busy(c)["segments_info"].append({"id": 0, "category_id": 1}), "0 is void"),
        (
            lambda c: busy(c)["segments_info"][0].update(category_id=3),
            "unknown category 3: files hold the dataset's own ids",
        ),
        (lambda c: busy(c)["segments_info"][0].pop("category_id"), 'no valid "category_id"'),
        (lambda c: busy(c).update(file_name="../../secret.png"), "secret.png, which is not inside"),
        (lambda c: busy(c).update(file_name="/secret.png"), "secret.png, which is not inside"),
        (lambda c: busy(c).update(file_name="000000000099.png"), "cannot read .*000099.png"),
        (lambda c: busy(c).update(file_name="000000000008.png"), "holds segment|has no pixel"),
    ],
)
def test_panoptic_entries_that_cannot_be(saved_coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match=message):
        read(saved_coco.items[0])
    if "000008" not in message:
        read(saved_coco.items[1])  # others are fine


def test_pictures_that_cannot_be(saved_coco, tmp_path):
    file = tmp_path / "out" / "panoptic" / STEM / "000000000005.png"
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvaluationError, match=f"cannot read {re.escape(str(file))}"):
        read(saved_coco.items[0])
    Image.new("RGB", (3, 4)).save(file)
    with pytest.raises(EvaluationError, match=rf"{re.escape(str(file))} is \(4, 3\), the image"):
        read(saved_coco.items[0])
    Image.new("L", (3, 4)).save(file)
    with pytest.raises(EvaluationError, match="mode is L, not RGB"):
        read(saved_coco.items[0])


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
        (lambda e: e["segmentation"].update(counts="1"), "damaged .*ends too early"),
        (lambda e: e["segmentation"].update(counts=""), "damaged .*ends too early"),
        (lambda e: e["segmentation"].update(counts="zzzz"), "damaged"),
        (lambda e: e["segmentation"].update(counts="é"), "damaged"),
        (lambda e: e["segmentation"].update(counts=3), "damaged .*no text"),
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
    boxes = file.parent / "boxes" / file.name
    item = saved_coco.items[0]

    def read() -> np.ndarray:
        output = PredictionFolder(saved_coco.name, tmp_path / "out")(item)
        return output["instances"].pred_boxes.tensor.numpy()

    change(boxes, lambda content: [e | {"bbox": [1, 2, 3.5, 4]} for e in content])
    assert len(read()) > 0
    assert (read() == [1, 2, 4.5, 6]).all()  # ours lie in a file of their own
    change(file, lambda content: [e | {"bbox": [0, 1, 2, 2.5]} for e in content])
    assert (read() == [0, 1, 2, 3.5]).all()
    change(file, lambda content: [e | {"bbox": [0, 1, 2]} for e in content])
    with pytest.raises(EvaluationError, match=r"a \"bbox\" in image .* not \[left, top, width"):
        read()


def test_boxes_of_other_detections_are_refused(saved_coco, tmp_path):
    boxes = next((tmp_path / "out" / "instances" / "boxes").glob("*.json"))
    change(boxes, lambda content: content[1:])
    with pytest.raises(EvaluationError, match="has other detections in image"):
        PredictionFolder(saved_coco.name, tmp_path / "out")
    boxes.unlink()
    PredictionFolder(saved_coco.name, tmp_path / "out")  # boxes around masks


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


def test_the_size_of_an_image_may_come_from_its_file(saved_coco, tmp_path):
    item = {
        key: value for key, value in saved_coco.items[0].items() if key not in ("height", "width")
    }
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match="cannot read anywhere"):
        read(item)
    Image.new("RGB", (18, 14)).save(tmp_path / "a.png")
    assert read(item | {"file_name": str(tmp_path / "a.png")})["sem_seg"].shape == (14, 18)
