"""Damaged and ill-fitting files are named by the mappers that read them."""

import copy
import json
import shutil

import numpy as np
import pytest
from detectron2.data import transforms as T
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image, ImageFile

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import LabelSpec, read_image
from panoptic_dl.data.mapper import SemanticTrainMapper, TestMapper
from tests.data.small import panoptic_mapper


@pytest.fixture
def record(root, records, tmp_path):
    """A record of COCO whose files may be damaged."""
    record = copy.deepcopy(records["coco"][0])
    for key in ("file_name", "pan_seg_file_name"):
        record[key] = shutil.copy(record[key], tmp_path)
    return record


def mappers():
    return {
        "panoptic": panoptic_mapper(),
        "semantic": SemanticTrainMapper(augmentations=[], num_classes=133),
        "test": TestMapper(augmentations=[]),
    }


@pytest.mark.parametrize("kind", ["panoptic", "semantic", "test"])
@pytest.mark.parametrize("allow_truncated", [False, True])
@pytest.mark.parametrize("size", [0, 20, 700])
def test_a_truncated_image_is_named(record, kind, allow_truncated, size, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allow_truncated)
    with open(record["file_name"], "r+b") as file:
        file.truncate(size)
    with pytest.raises(DatasetError, match=f"cannot read {record['file_name']}.*truncated"):
        mappers()[kind](record)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is allow_truncated


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_truncated_label_is_named(record, kind):
    with open(record["pan_seg_file_name"], "r+b") as file:
        file.truncate(120)
    with pytest.raises(DatasetError, match=f"cannot read {record['pan_seg_file_name']}"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic", "test"])
def test_a_missing_image_is_named(record, kind):
    record["file_name"] += ".gone"
    with pytest.raises(DatasetError, match=f"cannot read {record['file_name']} .missing"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_label_of_another_size_is_named(record, kind):
    Image.new("RGB", (60, 79)).save(record["pan_seg_file_name"])
    with pytest.raises(DatasetError, match=r"sizes differ: .*\.png is 60 x 79, .*jpg is 60 x 80"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
@pytest.mark.parametrize("category", [133, -1])
def test_a_category_outside_the_classes_is_named(record, kind, category):
    record["segments_info"][1]["category_id"] = category
    identity = record["segments_info"][1]["id"]
    with pytest.raises(
        DatasetError,
        match=rf"{record['pan_seg_file_name']}: segment {identity} has category {category},",
    ):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_an_id_without_a_segment_is_named(record, kind):
    ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
    ids[70:72, 0:3] = 12345
    Image.fromarray(id2rgb(ids)).save(record["pan_seg_file_name"])
    with pytest.raises(
        DatasetError, match=rf"{record['pan_seg_file_name']}: id 12345 .*6 pixels of 1 such ids"
    ):
        mappers()[kind](record)


def test_the_whole_label_is_checked_not_only_the_crop(record):
    ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
    ids[79, 59] = 12345
    Image.fromarray(id2rgb(ids)).save(record["pan_seg_file_name"])
    mapper = panoptic_mapper([T.CropTransform(0, 0, 8, 8)])
    with pytest.raises(DatasetError, match="id 12345"):
        mapper(record)


def test_a_semantic_label_outside_the_classes_is_named(records, tmp_path):
    record = copy.deepcopy(records["cityscapes_semantic"][0])
    label = np.array(Image.open(record["sem_seg_file_name"]))
    label[:2, :5] = 33  # a label id among train ids
    record["sem_seg_file_name"] = str(tmp_path / "bad_labelTrainIds.png")
    Image.fromarray(label).save(record["sem_seg_file_name"])
    mapper = SemanticTrainMapper(augmentations=[], num_classes=19)
    with pytest.raises(
        DatasetError, match=r"bad_labelTrainIds.png: label id 33 \(10 pixels\).*0\.\.18"
    ):
        mapper(record)


def test_labels_larger_than_a_byte_are_refused():
    with pytest.raises(ValueError, match="8 bit"):
        LabelSpec(num_classes=256)


def test_annotations_of_the_fixture_have_a_crowd_and_void(root):
    content = json.loads((root / "coco/annotations/panoptic_train2017.json").read_text())
    assert any(s["iscrowd"] for a in content["annotations"] for s in a["segments_info"])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_images_of_16_bits_are_refused_and_not_clipped(tmp_path, suffix):
    file = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).save(file)
    with pytest.raises(DatasetError, match=rf"{file} has more than 8 bits a pixel \(mode I;16\)"):
        read_image(str(file), "RGB")
