"""A part of COCO is taken by the reader of the whole, or it is said why not."""

import json

import cv2
import numpy as np
import pytest

from tests.datasets.tiny_datasets import edit_json, write_coco


def write_deep_png(file):
    colors = cv2.imread(str(file)).astype(np.uint16)
    assert cv2.imwrite(str(file), colors * 256)


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "all", train=4, val=2)


def test_a_part_is_ready(coco, tmp_path, run_script):
    arguments = "subset_coco.py", coco, tmp_path / "part"
    code, out, err = run_script(*arguments, "--ids", 102, 100, 102)
    assert code == 0, err
    assert out.splitlines()[0] == f"2 images in {tmp_path / 'part' / 'coco'}: 102 100"
    assert out.splitlines()[-1] == f"ready: dataset=coco dataset.root={tmp_path / 'part'}"
    for kind in ("panoptic", "instances"):
        for split in ("train", "val"):
            file = tmp_path / f"part/coco/annotations/{kind}_{split}2017.json"
            assert {i["id"] for i in json.loads(file.read_text())["images"]} == {100, 102}


@pytest.mark.parametrize(
    ("breaks", "arguments", "says"),
    [
        (lambda base: None, ["--ids", 7], "train2017 has no image 7"),
        (lambda base: (base / "train2017/000000000101.jpg").unlink(), [], "101.jpg is missing"),
        (
            lambda base: (base / "annotations/instances_train2017.json").write_text("{"),
            [],
            "instances_train2017.json is no annotation file of COCO",
        ),
        (
            lambda base: edit_json(
                base / "annotations/instances_train2017.json",
                lambda c: c["annotations"][0].update(area=None),
            ),
            [],
            '"iscrowd" and "area" must be numbers',
        ),
        (
            lambda base: write_deep_png(base / "panoptic_train2017/000000000101.png"),
            [],
            "101.png has more than 8 bits a channel",
        ),
    ],
)
def test_what_no_reader_takes_ends_in_one_line(coco, tmp_path, run_script, breaks, arguments, says):
    breaks(coco / "coco")
    code, out, err = run_script("subset_coco.py", coco, tmp_path / "part", *arguments)
    assert (code, "ready" in out) == (1, False)
    assert err.startswith("error: ")
    assert says in err
    assert not (tmp_path / "part/coco").exists()
