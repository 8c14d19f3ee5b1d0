"""The toy COCO against Detectron2's loaders, pycocotools and panopticapi."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from panoptic_dl.datasets.toy import toy_coco
from panoptic_dl.datasets.toy.coco import PLACES, _describe_instance
from panoptic_dl.datasets.toy.scene import read_layouts
from panoptic_dl.datasets.toy.sprites import read_sprite

SPLITS = (("train2017", 40), ("val2017", 6))


def read(folder: Path, kind: str, split: str) -> dict:
    return json.loads((folder / "annotations" / f"{kind}_{split}.json").read_text())


def read_ids(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.int64) @ np.array([1, 256, 256**2])


def test_layout_is_official(toy_scenes: Path) -> None:
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    official = {(c["id"], c["name"], c["isthing"]) for c in COCO_CATEGORIES}
    shapes = set()
    for split, count in SPLITS:
        panoptic, instances = (read(toy_scenes, kind, split) for kind in ("panoptic", "instances"))
        listed = {(c["id"], c["name"], c["isthing"]) for c in panoptic["categories"]}
        assert listed == official
        assert len(instances["categories"]) == 80
        assert len(panoptic["images"]) == len(panoptic["annotations"]) == count
        assert panoptic["images"] == instances["images"]
        assert len(list((toy_scenes / split).iterdir())) == count
        for image in panoptic["images"]:
            assert image["file_name"] == f"{image['id']:012d}.jpg"
            with Image.open(toy_scenes / split / image["file_name"]) as opened:
                assert (opened.format, opened.mode) == ("JPEG", "RGB")
                assert opened.size == (image["width"], image["height"])
                shapes.add(opened.size)
    assert {(128, 96), (96, 128)} <= shapes
    assert any(width % 2 for width, _ in shapes)


def test_panoptic_json_agrees_with_the_pngs(toy_scenes: Path) -> None:
    crowds = unlabelled = 0
    for split, _ in SPLITS:
        content = read(toy_scenes, "panoptic", split)
        things = {c["id"] for c in content["categories"] if c["isthing"]}
        for annotation in content["annotations"]:
            ids = read_ids(toy_scenes / f"panoptic_{split}" / annotation["file_name"])
            areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
            unlabelled += areas.pop(0, 0)
            assert areas == {s["id"]: s["area"] for s in annotation["segments_info"]}
            stuff = [s["category_id"] for s in annotation["segments_info"]]
            stuff = [category for category in stuff if category not in things]
            assert len(stuff) == len(set(stuff))
            for segment in annotation["segments_info"]:
                x, y, width, height = segment["bbox"]
                rows, columns = np.nonzero(ids == segment["id"])
                assert (columns.min(), rows.min()) == (x, y)
                assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
                assert not segment["iscrowd"] or segment["category_id"] in things
                crowds += segment["iscrowd"]
    assert crowds > 0
    assert unlabelled > 0


def test_instances_are_the_segments_of_things(toy_scenes: Path) -> None:
    used = set()
    for split, _ in SPLITS:
        coco = COCO(toy_scenes / "annotations" / f"instances_{split}.json")
        content = read(toy_scenes, "panoptic", split)
        things = {c["id"] for c in content["categories"] if c["isthing"]}
        for annotation in content["annotations"]:
            ids = read_ids(toy_scenes / f"panoptic_{split}" / annotation["file_name"])
            segments = [s for s in annotation["segments_info"] if s["category_id"] in things]
            instances = coco.loadAnns(coco.getAnnIds(imgIds=annotation["image_id"]))
            assert len(segments) == len(instances)
            for segment, instance in zip(segments, instances, strict=True):
                used.add(instance["category_id"])
                assert instance["category_id"] == segment["category_id"]
                assert instance["iscrowd"] == segment["iscrowd"]
                assert isinstance(instance["segmentation"], dict if instance["iscrowd"] else list)
                mask, truth = coco.annToMask(instance).astype(bool), ids == segment["id"]
                assert instance["area"] == mask.sum()
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert instance["bbox"] == pytest.approx(box, abs=1)
                if instance["iscrowd"]:
                    np.testing.assert_array_equal(mask, truth)
                else:
                    # Polygons cannot have holes, and are simplified a little.
                    assert (mask & truth).sum() / truth.sum() > 0.93
                    assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert len(used) >= 15


def test_detectron2_loads_it(toy_scenes: Path) -> None:
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.coco import load_coco_json
    from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

    meta = MetadataCatalog.get("coco_2017_train_panoptic").as_dict()
    for split, count in SPLITS:
        annotations, images = toy_scenes / "annotations", str(toy_scenes / split)
        truth = str(toy_scenes / f"panoptic_{split}")
        dicts = load_coco_panoptic_json(
            str(annotations / f"panoptic_{split}.json"), images, truth, meta
        )
        assert len(dicts) == count
        assert all(
            Path(d[key]).is_file() for d in dicts for key in ("file_name", "pan_seg_file_name")
        )
        dicts = load_coco_json(str(annotations / f"instances_{split}.json"), images)
        assert sum(len(item["annotations"]) for item in dicts) > count


def test_truth_against_itself_is_100(toy_scenes: Path, capsys: pytest.CaptureFixture) -> None:
    from panopticapi.evaluation import pq_compute

    truth = str(toy_scenes / "annotations" / "panoptic_train2017.json")
    folder = str(toy_scenes / "panoptic_train2017")
    result = pq_compute(truth, truth, folder, folder)
    assert result["All"]["pq"] == pytest.approx(1.0)
    assert result["Things"]["n"] >= 15
    assert result["Stuff"]["n"] >= 8


@pytest.mark.parametrize("place", PLACES)
def test_everything_is_a_category_of_coco(place: str) -> None:
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    layout = read_layouts()["places"][place]
    for item in layout["backdrop"] + layout["things"]:
        names = [item["sprite"]] if isinstance(item["sprite"], str) else item["sprite"]
        labels = {label for name in names for label, _ in read_sprite(name)[1]}
        if "label" in item:
            labels = {item["label"]}
        assert labels <= {c["name"] for c in COCO_CATEGORIES} | {""}


def test_polygon_of_a_disc_covers_it() -> None:
    rows, columns = np.mgrid[:40, :50]
    disc = (rows - 20) ** 2 + (columns - 25) ** 2 < 150
    instance = _describe_instance(disc, is_crowd=False)
    encoded = coco_mask.merge(coco_mask.frPyObjects(instance["segmentation"], 40, 50))
    decoded = coco_mask.decode(encoded).astype(bool)
    assert (decoded & disc).sum() / (decoded | disc).sum() > 0.95


@pytest.mark.parametrize(
    ("change", "message"), [({"size": (64, 64)}, "size"), ({"num_train": 0}, "num_train")]
)
def test_parameters_out_of_range(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_coco(root=str(tmp_path), **{"num_train": 1, "num_val": 1, **change})
    assert not any(tmp_path.iterdir())
