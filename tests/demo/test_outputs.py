"""What mode=demo writes: pictures, and files of COCO's panoptic format."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl import Predictor
from panoptic_dl.core.errors import DemoError, EvaluationError
from tests.demo.samples import files, run_demo


@pytest.mark.parametrize("layout", ["overlay", "side_by_side", "both"])
def test_views_and_layouts(panoptic_run, photos, tmp_path, layout):
    views = ["panoptic", "semantic", "instances", "center", "offset"]
    run_demo(panoptic_run, photos / "z.png", tmp_path / "out", views=views, layout=layout)
    expected = [f"{view}/z.jpg" for view in views] if layout != "side_by_side" else []
    expected += ["side_by_side/z.jpg"] if layout != "overlay" else []
    assert files(tmp_path / "out" / "demo") == sorted(expected)
    if layout != "overlay":
        sheet = Image.open(tmp_path / "out" / "demo" / "side_by_side" / "z.jpg")
        # Pictures below 256 pixels grow twofold; three rows of two.
        assert 2 * 2 * 132 < sheet.width < 2 * 2 * 132 + 20
        assert sheet.height > 3 * 2 * 64


def test_panoptic_files_are_read_by_panopticapi(panoptic_run, photos, tmp_path):
    run_demo(panoptic_run, photos, tmp_path / "out", save="json")
    folder = tmp_path / "out" / "demo"
    content = json.loads((folder / "coco_panoptic.json").read_text())
    assert [image["id"] for image in content["images"]] == ["a_x", "b_x", "y_jpg", "y_png", "z"]
    assert content["images"][0]["file_name"] == str(photos / "a" / "x.jpg")
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
