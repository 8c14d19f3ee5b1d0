"""The toy Cityscapes against the official scripts, loaders and evaluator."""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import id2label, labels, name2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from PIL import Image

from panoptic_dl.datasets.toy import toy_cityscapes
from panoptic_dl.datasets.toy.cityscapes import ALL_CLASSES, ALWAYS, CITIES, compose_street
from panoptic_dl.datasets.toy.scene import count_visible, draw_order, sample_random


def annotations_of(folder: Path, split: str) -> list[Path]:
    return sorted((folder / "gtFine" / split).glob("*/*_gtFine_polygons.json"))


def test_layout_is_official(toy_streets: Path) -> None:
    for split, count in (("train", 14), ("val", 4)):
        images = sorted((toy_streets / "leftImg8bit" / split).glob("*/*.png"))
        assert len(images) == count
        for image in images:
            city, sequence, frame, kind = image.stem.split("_")
            assert (image.parent.name, frame, kind) == (city, "000019", "leftImg8bit")
            assert city in CITIES[split]
            assert len(sequence) == 6
            with Image.open(image) as opened:
                assert (opened.mode, opened.size) == ("RGB", (192, 96))
            stem = toy_streets / "gtFine" / split / city / f"{city}_{sequence}_{frame}_gtFine_"
            for name, mode in (
                ("labelIds", "L"),
                ("labelTrainIds", "L"),
                ("instanceIds", "I;16"),
                ("color", "RGBA"),
            ):
                with Image.open(f"{stem}{name}.png") as opened:
                    assert (opened.mode, opened.size) == (mode, (192, 96))
            panoptic = toy_streets / "gtFine" / f"cityscapes_panoptic_{split}"
            with Image.open(panoptic / f"{stem.name}panoptic.png") as opened:
                assert (opened.mode, opened.size) == ("RGB", (192, 96))


def test_official_scripts_make_the_same_labels(toy_streets: Path, tmp_path: Path) -> None:
    for polygons in annotations_of(toy_streets, "train") + annotations_of(toy_streets, "val"):
        stem = str(polygons).removesuffix("polygons.json")
        for encoding, name in (
            ("ids", "labelIds"),
            ("trainIds", "labelTrainIds"),
            ("color", "color"),
        ):
            json2labelImg(str(polygons), str(tmp_path / "again.png"), encoding)
            again = np.asarray(Image.open(tmp_path / "again.png"))
            np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}{name}.png")), again)
        annotation = Annotation()
        annotation.fromJsonFile(str(polygons))
        again = np.asarray(createInstanceImage(annotation, "ids"))
        np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}instanceIds.png")), again)


def test_polygons_lie_in_the_image(toy_streets: Path) -> None:
    for path in annotations_of(toy_streets, "train"):
        annotation = json.loads(path.read_text())
        assert (annotation["imgHeight"], annotation["imgWidth"]) == (96, 192)
        for item in annotation["objects"]:
            points = np.array(item["polygon"])
            assert points.dtype.kind == "i"
            assert points.min() >= 0
            assert (points.max(axis=0) < (192, 96)).all()


def test_crowds_void_and_all_classes_occur(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    for index in range(60):
        scene = compose_street(sample_random(3, "train", index), (64, 128), ALL_CLASSES)
        found.update({part.label for part in scene.parts})
    assert {"cargroup", "persongroup"} <= found.keys()
    assert {"ego vehicle", "out of roi", "unlabeled", "static", "dynamic"} <= found.keys()
    assert found.keys() >= set(ALL_CLASSES)
    official = {label.name for label in labels} | {"cargroup", "persongroup"}
    assert found.keys() <= official


def test_default_classes_leave_the_others_out() -> None:
    for index in range(30):
        classes = (*ALWAYS, "bus", "traffic sign")
        scene = compose_street(sample_random(0, "val", index), (64, 128), classes)
        names = {part.label for part in scene.parts if part.label in name2label}
        evaluated = {name for name in names if not name2label[name].ignoreInEval}
        assert evaluated <= {*ALWAYS, "bus", "traffic sign"}


def test_panoptic_json_agrees_with_the_pngs(toy_streets: Path) -> None:
    crowds = void = 0
    for split in ("train", "val"):
        name = f"cityscapes_panoptic_{split}"
        content = json.loads((toy_streets / "gtFine" / f"{name}.json").read_text())
        assert len(content["categories"]) == 19
        for annotation in content["annotations"]:
            rgb = np.asarray(Image.open(toy_streets / "gtFine" / name / annotation["file_name"]))
            ids = rgb.astype(np.int64) @ np.array([1, 256, 256**2])
            areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
            void += areas.pop(0, 0)
            assert areas == {s["id"]: s["area"] for s in annotation["segments_info"]}
            crowds += sum(segment["iscrowd"] for segment in annotation["segments_info"])
            for segment in annotation["segments_info"]:
                # A whole class with instances under one id is a crowd, and nothing else is.
                thing = id2label[segment["category_id"]].hasInstances
                assert segment["iscrowd"] == int(thing and segment["id"] < 1000)
    assert crowds > 0
    assert void > 0


def test_detectron2_loads_it(toy_streets: Path) -> None:
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
    from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic

    meta = MetadataCatalog.get("cityscapes_fine_panoptic_train").as_dict()
    for split, count in (("train", 14), ("val", 4)):
        images = str(toy_streets / "leftImg8bit" / split)
        truth = toy_streets / "gtFine"
        name = f"cityscapes_panoptic_{split}"
        dicts = load_cityscapes_panoptic(images, str(truth / name), f"{truth / name}.json", meta)
        assert len(dicts) == count
        for item in dicts:
            for key in ("file_name", "sem_seg_file_name", "pan_seg_file_name"):
                assert Path(item[key]).is_file()
            semantic = np.asarray(Image.open(item["sem_seg_file_name"]))
            for segment in item["segments_info"]:
                assert (semantic == segment["category_id"]).any()
        assert len(load_cityscapes_semantic(images, str(truth / split))) == count


def test_truth_against_itself_is_100(toy_streets: Path, capsys: pytest.CaptureFixture) -> None:
    from panopticapi.evaluation import pq_compute

    truth = toy_streets / "gtFine" / "cityscapes_panoptic_train"
    result = pq_compute(f"{truth}.json", f"{truth}.json", str(truth), str(truth))
    assert result["All"]["pq"] == pytest.approx(1.0)
    content = json.loads(Path(f"{truth}.json").read_text())
    occurring = {s["category_id"] for a in content["annotations"] for s in a["segments_info"]}
    assert result["All"]["n"] == len(occurring) >= 16


@pytest.mark.parametrize("index", range(6))
def test_what_is_drawn_is_what_is_labelled(index: int) -> None:
    """Other colors for a thing change the pixels of its label only, give or take one."""
    size = (128, 256)
    scene = compose_street(sample_random(7, "train", index), size, ALL_CLASSES)

    def photograph() -> np.ndarray:
        scene.chance = random.Random(1)
        return np.asarray(scene.photograph(), dtype=np.int32)

    order = draw_order(scene.parts, size)
    # As in Cityscapes, what one sees through a wheel is labelled bicycle.
    gaps = np.zeros(size, np.uint8)
    for number, part in enumerate(scene.parts, start=1):
        covered = part.silhouette((0, 0, size[1], size[0]), 1) > 0
        gaps[(order == number) & ~covered] = 1
    three = np.ones((3, 3), np.uint8)
    things = [n for n, part in enumerate(scene.parts, start=1) if part.is_thing]
    assert things
    for number in things:
        part = scene.parts[number - 1]
        paints, part.round = part.paints, 0.0
        pictures = []
        for color in ((64, 64, 64), (192, 192, 192)):
            part.paints = [dataclasses.replace(paint, color=color) for paint in paints]
            pictures.append(photograph())
        part.paints = paints
        changed = (np.abs(pictures[1] - pictures[0]).max(axis=2) > 50).astype(np.uint8)
        label = (order == number).astype(np.uint8)
        beyond = changed & ~cv2.dilate(label | gaps, three) & 1
        missing = cv2.erode(label, three) & ~cv2.dilate(changed | gaps, three) & 1
        assert beyond.sum() <= 6, part.label  # the tip of a handlebar
        assert not missing.any(), part.label
        cycle = part.label in ("bicycle", "motorcycle")
        assert (label & gaps).sum() < (0.55 if cycle else 0.1) * label.sum(), part.label


def test_sizes_go_down_to_a_few_pixels_and_not_further() -> None:
    size, areas_of_things = (64, 128), []
    for index in range(60):
        parts = compose_street(sample_random(3, "train", index), size, ALL_CLASSES).parts
        areas: Counter[str | int] = Counter()
        for number, (part, area) in enumerate(zip(parts, count_visible(parts, size), strict=True)):
            single = part.is_thing or part.is_crowd
            areas[number if single else part.label] += area
            areas_of_things += [area] * single
        for name in ("unlabeled", "out of roi", "static", "dynamic", "ego vehicle"):
            del areas[name]
        assert min(areas.values()) >= 0.0009 * 64 * 128
    assert min(areas_of_things) < 0.0025 * 64 * 128 < 0.02 * 64 * 128 < max(areas_of_things)


def test_scenes_have_what_makes_segmentation_hard() -> None:
    """Things hidden by their own class, cut by the border, stuff in pieces, empty streets."""
    size, seen = (64, 128), Counter()
    for index in range(80):
        parts = compose_street(sample_random(0, "train", index), size).parts
        order = draw_order(parts, size)
        things = [(n, part) for n, part in enumerate(parts, start=1) if part.is_thing]
        seen["empty"] += not things
        for number, part in things:
            x = [x for x, _ in part.outlines[0]]
            seen["cut"] += min(x) == 0 or max(x) == size[1] - 1
            alone = draw_order([part], size) > 0
            hiders = {parts[n - 1].label for n in np.unique(order[alone]) if n > number}
            seen["hidden by its class"] += part.label in hiders
        for label in ("sky", "vegetation", "sidewalk"):
            numbers = [n for n, part in enumerate(parts, start=1) if part.label == label]
            mask = np.isin(order, numbers).astype(np.uint8)
            seen[f"{label} in pieces"] += cv2.connectedComponents(mask)[0] > 2
    assert min(seen.values()) > 0, seen
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (32, 64)}, "size"),
        ({"num_val": 0}, "num_val"),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_cityscapes(root=str(tmp_path), **{"num_train": 1, "num_val": 1, **change})
    assert not any(tmp_path.iterdir())
