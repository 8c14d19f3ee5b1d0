"""What mode=demo writes: pictures, and files of COCO's panoptic format."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from panoptic_dl import Predictor
from panoptic_dl.config import build
from panoptic_dl.core.classes import load_classes
from panoptic_dl.core.errors import DemoError, EvaluationError
from panoptic_dl.core.images import read_label_ids, read_panoptic_ids
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from tests.demo.samples import files, make_video, run_demo


@pytest.mark.parametrize("layout", ["overlay", "side_by_side", "both"])
def test_views_and_layouts(panoptic_run, photos, tmp_path, layout):
    views = ["panoptic", "semantic", "instances", "center", "offset"]
    run_demo(panoptic_run, photos / "z.png", tmp_path / "out", views=views, layout=layout)
    expected = [f"{view}/z.jpg" for view in views] if layout != "side_by_side" else []
    expected += ["side_by_side/z.jpg"] if layout != "overlay" else []
    assert files(tmp_path / "out" / "demo") == sorted(expected)
    if layout != "overlay":
        sheet = Image.open(tmp_path / "out" / "demo" / "side_by_side" / "z.jpg")
        assert 2 * 132 < sheet.width < 2 * 132 + 20  # three rows of two
        assert sheet.height > 3 * 64


def test_panoptic_files_are_read_by_panopticapi(panoptic_run, photos, tmp_path):
    run_demo(panoptic_run, photos, tmp_path / "out", save="json")
    folder = tmp_path / "out" / "demo"
    content = json.loads((folder / "coco_panoptic.json").read_text())
    assert [image["id"] for image in content["images"]] == ["a_x", "b_x", "y_jpg", "y_png", "z"]
    assert content["images"][0]["file_name"] == "a/x.jpg"
    ids = [category["id"] for category in CITYSCAPES_CATEGORIES]
    assert [category["id"] for category in content["categories"]] == ids
    # Held against itself by the official code, which compares PNG and JSON, all is right.
    quality = pq_compute(
        str(folder / "coco_panoptic.json"),
        str(folder / "coco_panoptic.json"),
        str(folder / "coco_panoptic"),
        str(folder / "coco_panoptic"),
    )
    assert quality["All"]["pq"] == 1
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    result = predictor(photos / "z.png")
    (annotation,) = [a for a in content["annotations"] if a["image_id"] == "z"]
    ids = rgb2id(np.asarray(Image.open(folder / "coco_panoptic" / annotation["file_name"])))
    assert np.array_equal(ids, result.panoptic + 1)
    for segment, saved in zip(result.segments, annotation["segments_info"], strict=True):
        assert saved["id"] == segment.id + 1
        assert saved["category_id"] == CITYSCAPES_CATEGORIES[segment.category]["id"]
        assert saved["area"] == segment.area == (ids == saved["id"]).sum()
        assert saved["isthing"] == segment.is_thing == ("score" in saved)
        x, y, width, height = saved["bbox"]
        assert (x, y, x + width, y + height) == segment.box


def test_panoptic_files_are_read_as_a_dataset(panoptic_run, photos, tmp_path):
    run_demo(panoptic_run, photos, tmp_path / "out", save=["panoptic"])
    places = {"json": "coco_panoptic.json", "images": str(photos), "labels": "coco_panoptic"}
    root, file = str(tmp_path / "out" / "demo"), places["json"]
    splits = {"train_split": "x", "test_split": "x", "train_json": file, "test_json": file}
    classes = custom_classes(form="coco_format", root=root, **splits)
    theirs = build(panoptic_run.config.dataset.classes)
    assert set(zip(classes.category_ids, classes.names, classes.colors, strict=True)) == set(
        zip(theirs.category_ids, theirs.names, theirs.colors, strict=True)
    )
    name = custom_dataset(
        form="coco_format",
        task="panoptic",
        part="test",
        classes=classes,
        root=root,
        split="x",
        **places,
    )
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    for record in DatasetCatalog.get(name):
        result = predictor(record["file_name"])
        ids = read_panoptic_ids(record["pan_seg_file_name"])
        for segment in record["segments_info"]:
            (predicted,) = [s for s in result.segments if s.id + 1 == segment["id"]]
            assert classes.names[segment["category_id"]] == predicted.name
            assert np.array_equal(ids == segment["id"], result.mask(predicted))
        assert len(record["segments_info"]) == len(result.segments)
    assert len(DatasetCatalog.get(name)) == 5


def test_instances_are_read_by_pycocotools(panoptic_run, photos, tmp_path, capsys):
    run_demo(panoptic_run, photos, tmp_path / "out", save=["instances"])
    assert files(tmp_path / "out" / "demo")[0] == "coco_instances.json"
    coco = COCO(str(tmp_path / "out" / "demo" / "coco_instances.json"))
    capsys.readouterr()
    things = [category for category in CITYSCAPES_CATEGORIES if category["isthing"]]
    assert [(c["id"], c["name"]) for c in coco.cats.values()] == [
        (category["id"], category["name"]) for category in things
    ]
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    assert [image["file_name"] for image in coco.imgs.values()] == [
        "a/x.jpg",
        "b/x.jpg",
        "y.jpg",
        "y.png",
        "z.png",
    ]
    assert list(coco.imgs) == [1, 2, 3, 4, 5]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    found = 0
    for number, image in coco.imgs.items():
        result = predictor(photos / image["file_name"])
        assert (image["height"], image["width"]) == result.semantic.shape
        saved = coco.loadAnns(coco.getAnnIds([number]))
        predicted = [segment for segment in result.segments if segment.is_thing]
        for annotation, segment in zip(saved, predicted, strict=True):
            assert np.array_equal(coco.annToMask(annotation), result.mask(segment))
            assert coco.cats[annotation["category_id"]]["name"] == segment.name
            assert annotation["area"] == segment.area == mask_util.area(annotation["segmentation"])
            assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()
            assert annotation["score"] == pytest.approx(segment.score, abs=1e-6)
            found += 1
    assert found > 5


@pytest.mark.parametrize("kind", ["panoptic_run", "semantic_run"])
def test_masks_hold_the_class_of_each_pixel(request, kind, photos, tmp_path):
    run = request.getfixturevalue(kind)
    run_demo(run, photos, tmp_path / "out", save="masks")
    folder = tmp_path / "out" / "demo"
    classes = load_classes(folder / "classes.json")
    assert classes == build(run.config.dataset.classes)
    predictor = Predictor.from_run(run.folder, device="cpu")
    for name, source in (("a_x", "a/x.jpg"), ("z", "z.png")):
        mask, semantic = Image.open(folder / "masks" / f"{name}.png"), predictor(photos / source)
        assert np.array_equal(np.asarray(mask), semantic.semantic)
        assert np.array_equal(read_label_ids(folder / "masks" / f"{name}.png"), semantic.semantic)
        colors = np.array(classes.colors)[semantic.semantic]
        assert np.array_equal(np.asarray(mask.convert("RGB")), colors)
    assert len(list((folder / "masks").iterdir())) == 5


def test_all_files_lie_side_by_side(panoptic_run, tmp_path):
    video = make_video(tmp_path / "clip.avi", frames=2, code="MJPG")
    run_demo(panoptic_run, video, tmp_path / "out", save=["masks", "instances", "json", "panoptic"])
    written = files(tmp_path / "out" / "demo")
    assert written == [
        "classes.json",
        "coco_instances.json",
        "coco_panoptic.json",
        "coco_panoptic/clip/000000.png",
        "coco_panoptic/clip/000001.png",
        "masks/clip/000000.png",
        "masks/clip/000001.png",
        "panoptic/clip.mp4",
    ]
    content = json.loads((tmp_path / "out" / "demo" / "coco_instances.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["clip.avi#0", "clip.avi#1"]


def test_results_of_an_earlier_demo_are_never_overwritten(
    panoptic_run, photos, tmp_path, monkeypatch
):
    run_demo(panoptic_run, photos / "a", tmp_path / "out")
    monkeypatch.setattr("panoptic_dl.demo.demo.accept", pytest.fail)
    before = (tmp_path / "out" / "demo" / "panoptic" / "x.jpg").read_bytes()
    with pytest.raises(DemoError, match="holds the results of an earlier demo"):
        run_demo(panoptic_run, photos / "b", tmp_path / "out")
    assert (tmp_path / "out" / "demo" / "panoptic" / "x.jpg").read_bytes() == before


def test_a_full_disk_ends_it_with_one_error_and_no_torn_file(
    panoptic_run, photos, tmp_path, monkeypatch
):
    original, count = Path.write_bytes, iter(range(100))

    def write_bytes(self, data):
        if "demo" in self.parts and next(count) >= 2:
            original(self, data[:10])
            raise OSError(28, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(EvaluationError, match="No space left on device"):
        run_demo(panoptic_run, photos, tmp_path / "out", num_workers=1)
    for file in (tmp_path / "out" / "demo").rglob("*.*"):
        Image.open(file).load()
        assert not file.name.startswith(".")
