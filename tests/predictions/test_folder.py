"""Folders of predictions: files are found, and read back as what was written."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.official import OfficialCOCOInstanceEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import PredictionFolder
from tests.evaluation.model_outputs import evaluate
from tests.predictions.datasets import DATASET_IDS, coco_scenes, save, streets, toy


def same_figures(predicted, evaluators, read) -> None:
    for evaluator in evaluators:
        before, after = (
            json.dumps(evaluate(evaluator, predicted.items, outputs))
            for outputs in (predicted.outputs, [read(item) for item in predicted.items])
        )
        assert before == after


def same_instances(before, after) -> None:
    assert after.image_size == tuple(before.image_size)
    assert torch.equal(after.pred_masks, before.pred_masks)
    assert torch.equal(after.pred_classes, before.pred_classes)
    assert after.scores.tolist() == before.scores.tolist()
    if before.has("pred_boxes"):
        assert torch.equal(after.pred_boxes.tensor, before.pred_boxes.tensor)


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_coco(tmp_path, source):
    predicted = toy("toy_coco") if source == "toy" else coco_scenes(tmp_path, range(20))
    save(predicted, KINDS, tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert read.kinds == KINDS
    evaluators = [
        StreamingPanopticEvaluator(predicted.name),
        OfficialCOCOInstanceEvaluator(predicted.name),
    ]
    if source == "toy":  # the truth of drawn scenes has unlisted ids, which are refused
        evaluators.append(StreamingSemanticEvaluator(predicted.name))
    same_figures(predicted, evaluators, read)
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        found = read(item)
        panoptic, segments = found["panoptic_seg"]
        assert segments is None
        assert torch.equal(panoptic, output["panoptic_seg"][0])
        if "instances" in output:
            same_instances(output["instances"], found["instances"])
        else:
            assert len(found["instances"]) == 0
            assert found["instances"].image_size == tuple(panoptic.shape)
        classes = output["sem_seg"]
        classes = classes if classes.ndim == 2 else classes.argmax(dim=0)
        assert torch.equal(found["sem_seg"], classes)


def test_drawn_streets(tmp_path):
    predicted = streets(tmp_path, range(10))
    save(predicted, ["semantic", "instances"], tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert read.kinds == ("instances", "semantic")
    evaluators = [
        StreamingCityscapesInstanceEvaluator(predicted.name),
        StreamingCityscapesSemanticEvaluator(predicted.name),
    ]
    same_figures(predicted, evaluators, read)
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        same_instances(output["instances"], read(item)["instances"])
        assert torch.equal(read(item)["sem_seg"], output["sem_seg"])


def test_toy_cityscapes(tmp_path):
    predicted = toy("toy_cityscapes")
    save(predicted, KINDS, tmp_path)
    read = PredictionFolder(predicted.name, tmp_path)
    assert read.kinds == KINDS
    evaluators = [
        StreamingPanopticEvaluator(predicted.name),
        StreamingCityscapesInstanceEvaluator(predicted.name),
        StreamingCityscapesSemanticEvaluator(predicted.name),
    ]
    same_figures(predicted, evaluators, read)


@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
def test_the_semantic_task(tmp_path, dataset):
    predicted = toy(dataset, "semantic")
    save(predicted, "semantic", tmp_path)
    read = PredictionFolder(predicted.name, tmp_path)
    assert read.kinds == ("semantic",)
    evaluator = (
        StreamingCityscapesSemanticEvaluator(predicted.name)
        if dataset == "toy_cityscapes"
        else StreamingSemanticEvaluator(predicted.name)
    )
    same_figures(predicted, [evaluator], read)


def listed(output: dict, with_thing: bool) -> dict:
    """The panoptic map in Detectron2's other form: any ids, and a list of them."""
    panoptic = output["panoptic_seg"][0]
    ids, segments = torch.zeros_like(panoptic), []
    for position, label in enumerate(label for label in panoptic.unique().tolist() if label >= 0):
        number = 7 + 60_001 * position
        ids[panoptic == label] = number
        category = label // 1000
        segments.append(
            {"id": number, "category_id": category, "isthing": category < 3}
            if with_thing
            else {"id": number, "category_id": DATASET_IDS[category]}
        )
    return {"panoptic_seg": (ids, segments)}


@pytest.mark.parametrize("with_thing", [True, False])
def test_lists_of_segments(tmp_path, with_thing):
    predicted = coco_scenes(tmp_path, range(14))
    evaluator = StreamingPanopticEvaluator(predicted.name)
    before = evaluate(evaluator, predicted.items, predicted.outputs)
    predicted.outputs = [listed(output, with_thing) for output in predicted.outputs]
    save(predicted, "panoptic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    after = evaluate(evaluator, predicted.items, [read(item) for item in predicted.items])
    assert json.dumps(after) == json.dumps(before)


def test_an_image_without_any_class_is_not_a_missing_one(tmp_path):
    predicted = coco_scenes(tmp_path, range(2))
    predicted.outputs[1]["sem_seg"][:] = -1
    save(predicted, "semantic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert (read(predicted.items[1])["sem_seg"] == -1).all()


def test_ids_beyond_three_colors_are_counted(tmp_path):
    predicted = coco_scenes(tmp_path, range(3))
    metadata = MetadataCatalog.get(predicted.name)
    del metadata.__dict__["label_divisor"]
    metadata.label_divisor = 5_000_000
    for output in predicted.outputs:
        panoptic = output["panoptic_seg"][0]
        output["panoptic_seg"] = (
            torch.where(panoptic < 0, -1, panoptic // 1000 * 5_000_000 + panoptic % 1000),
            None,
        )
    save(predicted, "panoptic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    same_figures(predicted, [StreamingPanopticEvaluator(predicted.name)], read)


def read_all(predicted, folder) -> list[dict]:
    read = PredictionFolder(predicted.name, folder)
    return [read(item) for item in predicted.items]


def alike(before: list[dict], after: list[dict], kind: str) -> None:
    key = {"panoptic": "panoptic_seg", "instances": "instances", "semantic": "sem_seg"}[kind]
    for one, other in zip(before, after, strict=True):
        assert key in other
        assert str(one[key]) == str(other[key])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["in it", "in its folder", "the folder itself"])
def test_names_of_others_in_coco(saved_coco, tmp_path, kind, place):
    before = read_all(saved_coco, tmp_path / "out")
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    folder = tmp_path / "theirs"
    target = folder / kind if place != "in it" else folder
    target.mkdir(parents=True)
    name = file.name.replace("panoptic-dl", "maskformer") if place == "in it" else "whatever.json"
    shutil.copy(file, target / name)
    if kind == "panoptic":
        pictures = target / Path(name).stem if place == "in it" else target  # beside it, too
        shutil.copytree(file.with_suffix(""), pictures, dirs_exist_ok=True)
    given = target if place == "the folder itself" else folder
    assert PredictionFolder(saved_coco.name, given).kinds == (kind,)
    alike(before, read_all(saved_coco, given), kind)


def as_detectron2(kind: str, content, stems):
    """Its semantic files name the image's file instead of its id."""
    if kind != "semantic":
        return content
    return [
        {"file_name": f"/data/{stems[e['image_id']]}.jpg"}
        | {key: value for key, value in e.items() if key != "image_id"}
        for e in content
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("instances", "coco_instances_results.json"),  # Detectron2
        ("semantic", "sem_seg_predictions.json"),
        ("panoptic", "predictions.json"),  # and Panoptic-DeepLab
        ("panoptic", "results.panoptic.json"),  # mmdetection
        ("instances", "results.segm.json"),
        ("instances", "whatever.json"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_files_are_found_by_what_is_in_them(saved_coco, tmp_path, kind, name, encoding):
    before = read_all(saved_coco, tmp_path / "out")
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    stems = {item["image_id"]: Path(item["file_name"]).stem for item in saved_coco.items}
    content = as_detectron2(kind, json.loads(file.read_text()), stems)
    (theirs / name).write_text(json.dumps(content), encoding=encoding)
    if kind == "panoptic":
        shutil.copytree(file.with_suffix(""), (theirs / name).with_suffix(""))
    else:  # what lies beside them is no other file of predictions
        boxes = [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]
        (theirs / "results.bbox.json").write_text(json.dumps(boxes))
        (theirs / "truth.json").write_text((tmp_path / "instances_small7.json").read_text())
        (theirs / "metrics.json").write_text('{"loss": 1}\n{"loss": 2}\n')
    assert PredictionFolder(saved_coco.name, theirs).kinds == (kind,)
    alike(before, read_all(saved_coco, theirs), kind)


def test_boxes_alone_are_named(saved_coco, tmp_path):
    boxes = [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.bbox.json").write_text(json.dumps(boxes))
    with pytest.raises(EvaluationError, match=r"results\.bbox\.json holds boxes and no masks"):
        PredictionFolder(saved_coco.name, tmp_path / "theirs")


@pytest.mark.parametrize("kind", ["instances", "semantic"])
@pytest.mark.parametrize("deep", [False, True])
def test_names_of_others_in_cityscapes(saved_cityscapes, tmp_path, kind, deep):
    before = read_all(saved_cityscapes, tmp_path / "out")
    folder = tmp_path / "theirs"
    for file in sorted((tmp_path / "out" / kind).rglob("*")):
        if file.is_dir():
            continue
        city = file.name.partition("_")[0] if deep else "."
        name = file.name
        if "masks" not in file.parts:
            name = name.replace("_pred_labelIds", "").replace("_pred", "_leftImg8bit_by_us")
        target = folder / city / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            target.write_text(file.read_text().replace("masks/", ""))
        else:
            shutil.copy(file, target)
    assert PredictionFolder(saved_cityscapes.name, folder).kinds == (kind,)
    alike(before, read_all(saved_cityscapes, folder), kind)


def test_cityscapes_panoptic_pictures_are_no_labels(tmp_path):
    """A panoptic result directly in a folder, with pictures in its own or beside it."""
    predicted = toy("toy_cityscapes")
    save(predicted, "panoptic", tmp_path / "out")
    assert PredictionFolder(predicted.name, tmp_path / "out").kinds == ("panoptic",)
    assert PredictionFolder(predicted.name, tmp_path / "out" / "panoptic").kinds == ("panoptic",)
    pictures = tmp_path / "out" / "panoptic" / "cityscapes_panoptic_val"
    for file in pictures.iterdir():
        file.rename(pictures.parent / file.name)
    pictures.rmdir()
    read = PredictionFolder(predicted.name, tmp_path / "out" / "panoptic")
    assert read.kinds == ("panoptic",)
    assert "panoptic_seg" in read(predicted.items[0])


def test_the_folders_of_panoptic_deeplab(saved_cityscapes, tmp_path):
    """Its instances lie in `instance/`."""
    before = read_all(saved_cityscapes, tmp_path / "out")
    (tmp_path / "out" / "instances").rename(tmp_path / "out" / "instance")
    assert PredictionFolder(saved_cityscapes.name, tmp_path / "out").kinds == (
        "instances",
        "semantic",
    )
    for kind in ("instances", "semantic"):
        alike(before, read_all(saved_cityscapes, tmp_path / "out"), kind)


def test_the_folder_above_names_the_one_below(saved_coco, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "out" / "panoptic").rename(tmp_path / "run" / "inference")
    with pytest.raises(EvaluationError, match=r"JSON files in .*/run/inference: name that folder"):
        PredictionFolder(saved_coco.name, tmp_path / "run")


def test_the_folder_above_is_refused(saved_cityscapes, tmp_path):
    """Or its masks would hide its labels, and nothing would be said of them."""
    (tmp_path / "run").mkdir()
    (tmp_path / "out").rename(tmp_path / "run" / "predictions")
    with pytest.raises(EvaluationError, match="no predictions for"):
        PredictionFolder(saved_cityscapes.name, tmp_path / "run")


def test_several_files_that_could_be_meant(saved_coco, tmp_path):
    for kind in KINDS:
        (file,) = (tmp_path / "out" / kind).glob("*.json")
        shutil.copy(file, file.with_name("other.json"))
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*{file.name}.*keep one"):
            PredictionFolder(saved_coco.name, tmp_path / "out")
        file.with_name("other.json").unlink()
        top = tmp_path / "out" / file.name
        shutil.copy(file, top)
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*keep one"):
            PredictionFolder(saved_coco.name, tmp_path / "out")
        top.unlink()


def test_nothing_is_there(saved_coco, tmp_path):
    with pytest.raises(EvaluationError, match="there is no folder"):
        PredictionFolder(saved_coco.name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"looked there for .*instances/\*\.json"):
        PredictionFolder(saved_coco.name, tmp_path / "empty")


def test_nothing_of_cityscapes_is_there(saved_cityscapes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"semantic/<image id>\*\.png"):
        PredictionFolder(saved_cityscapes.name, tmp_path / "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_torn_json(saved_coco, tmp_path, kind):
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    file.write_bytes(file.read_bytes()[:-200])
    message = f"cannot read {re.escape(str(file))} .*again"
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_coco.name, tmp_path / "out")


def test_the_size_of_an_image_may_come_from_its_file(saved_coco, tmp_path):
    item = {
        key: value for key, value in saved_coco.items[0].items() if key not in ("height", "width")
    }
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match="cannot read anywhere"):
        read(item)
    Image.new("RGB", (18, 14)).save(tmp_path / "a.png")
    assert read(item | {"file_name": str(tmp_path / "a.png")})["sem_seg"].shape == (14, 18)
