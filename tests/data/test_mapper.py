"""Samples equal those of Detectron2's mappers; damaged and ill-fitting files are named."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image, ImageFile

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.data.mapper import (
    PanopticTrainMapper,
    SemanticTrainMapper,
    TestMapper,
    TruthMapper,
)
from tests.datasets.tiny_datasets import panoptic_mapper

THINGS = {"cityscapes": list(range(11, 19)), "coco": list(range(80))}
NUM_CLASSES = {"cityscapes": 19, "coco": 133}


def augmentations(crop=(32, 40)):
    return [
        T.ResizeShortestEdge([32, 48, 64], 128, "choice"),
        T.RandomCrop("absolute", list(crop)),
        T.RandomFlip(),
    ]


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[key].dtype == value.dtype, key
            assert torch.equal(ours[key], value), key
        else:
            assert ours[key] == value, key


def sample(mapper, record, seed):
    np.random.seed(seed)  # noqa: NPY002
    return mapper(copy.deepcopy(record))


@pytest.mark.parametrize("dataset", ["cityscapes", "coco"])
@pytest.mark.parametrize("ignore_crowd", [False, True])
@pytest.mark.parametrize("ignore_stuff", [False, True])
def test_panoptic_samples_equal_those_of_detectron2(records, dataset, ignore_crowd, ignore_stuff):
    ours = PanopticTrainMapper(
        augmentations=augmentations(),
        num_classes=NUM_CLASSES[dataset],
        thing_ids=THINGS[dataset],
        gaussian_sigma=3,
        small_instance_area=200,
        small_instance_weight=3,
        ignore_stuff_in_offset=ignore_stuff,
        ignore_crowd_in_semantic=ignore_crowd,
    )
    theirs = PanopticDeeplabDatasetMapper(
        augmentations=augmentations(),
        image_format="RGB",
        panoptic_target_generator=PanopticDeepLabTargetGenerator(
            ignore_label=255,
            thing_ids=THINGS[dataset],
            sigma=3,
            ignore_stuff_in_offset=ignore_stuff,
            small_instance_area=200,
            small_instance_weight=3,
            ignore_crowd_in_semantic=ignore_crowd,
        ),
    )
    weights = set()
    for record in records[dataset]:
        for seed in range(4):
            made = sample(ours, record, seed)
            assert_equal(made, sample(theirs, record, seed))
            weights |= set(made["sem_seg_weights"].unique().tolist())
    assert weights == {1.0, 3.0}
    assert {made[key].shape[-2:] for key in ("image", "sem_seg", "center", "offset")} == {
        made["image"].shape[-2:]
    }


@pytest.mark.parametrize("max_area", [1.0, 0.6])
def test_semantic_samples_equal_those_of_detectron2(records, max_area):
    def augment():
        crop = T.RandomCrop_CategoryAreaConstraint(
            "absolute", [32, 40], single_category_max_area=max_area, ignored_category=255
        )
        return [T.ResizeShortestEdge([32, 64], 128, "choice"), crop, T.RandomFlip()]

    ours = SemanticTrainMapper(augmentations=augment(), num_classes=19)
    theirs = DatasetMapper(True, augmentations=augment(), image_format="RGB")
    for record in records["cityscapes_semantic"]:
        for seed in range(6):
            assert_equal(sample(ours, record, seed), sample(theirs, record, seed))


def test_semantic_labels_of_coco_come_from_the_panoptic_png(records):
    mapper = SemanticTrainMapper(augmentations=[T.NoOpTransform()], num_classes=133)
    for record in records["coco_semantic"]:
        made = mapper(record)
        assert made.keys() == {"file_name", "image_id", "height", "width", "image", "sem_seg"}
        ids = rgb2id(read_image(record["pan_seg_file_name"], "RGB"))
        expected = np.full(ids.shape, 255)
        for segment in record["segments_info"]:
            expected[ids == segment["id"]] = segment["category_id"]
        assert np.array_equal(made["sem_seg"].numpy(), expected)
        assert set(np.unique(expected)) == {0, 79, 132, 255}
    # The next label must not see the ids of the one before.
    again = mapper(records["coco_semantic"][0])
    assert torch.equal(again["sem_seg"], mapper(records["coco_semantic"][0])["sem_seg"])


def test_semantic_and_panoptic_mappers_agree_on_cityscapes(records):
    reader = SemanticLabelReader(num_classes=19)
    for semantic, panoptic in zip(
        records["cityscapes_semantic"],
        sorted(records["cityscapes"], key=lambda r: r["file_name"]),
        strict=True,
    ):
        derived = dict(panoptic)
        del derived["sem_seg_file_name"]
        assert np.array_equal(reader(semantic), reader(derived))


def test_test_samples_equal_those_of_detectron2(records):
    resize = [T.ResizeShortestEdge(40, 64, "choice")]
    ours = TestMapper(augmentations=resize)
    theirs = DatasetMapper(False, augmentations=resize, image_format="RGB")
    for record in records["coco"]:
        assert_equal(ours(record), theirs(copy.deepcopy(record)))
    made = ours(records["cityscapes"][0])
    assert made["image"].shape == (3, 32, 64)
    assert (made["height"], made["width"]) == (48, 96)
    assert made["image_id"] == "aachen_000000_000019"


def test_bgr_is_rgb_turned_round(records):
    rgb, bgr = (
        TestMapper(augmentations=[T.NoOpTransform()], image_format=f)(records["coco"][0])["image"]
        for f in ("RGB", "BGR")
    )
    assert torch.equal(rgb, bgr.flip(0))
    assert not torch.equal(rgb, bgr)


def test_a_crop_larger_than_the_image_takes_all_of_it(records):
    mapper = panoptic_mapper([T.RandomCrop("absolute", [500, 500])])
    assert mapper(records["coco"][0])["image"].shape == (3, 80, 60)


def test_records_are_left_as_they_are(records):
    record = records["coco"][0]
    before = copy.deepcopy(record)
    panoptic_mapper()(record)
    SemanticTrainMapper(augmentations=[], num_classes=133)(record)
    TestMapper(augmentations=[])(record)
    assert record == before


def test_mappers_travel_to_worker_processes(records):
    mapper = panoptic_mapper()
    mapper(records["coco"][0])
    assert len(pickle.dumps(mapper)) < 100_000  # without the look-up table
    assert_equal(pickle.loads(pickle.dumps(mapper))(records["coco"][0]), mapper(records["coco"][0]))


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


def test_annotations_of_the_fixture_have_a_crowd_and_void(root):
    content = json.loads((root / "coco/annotations/panoptic_train2017.json").read_text())
    assert any(s["iscrowd"] for a in content["annotations"] for s in a["segments_info"])


NUMBERS = {"num_classes": 133, "thing_ids": range(80), "gaussian_sigma": 3}


def make(augmentations=(), **changes):
    mapper = TestMapper(augmentations=list(augmentations))
    return TruthMapper(mapper=mapper, **NUMBERS | changes)


@pytest.mark.parametrize("index", range(3))
def test_truth_is_the_targets_of_training_without_augmentation(records, index):
    record = records["coco"][index]
    sample, trained = make()(record), panoptic_mapper()(record)
    truth = sample["truth"]
    assert torch.equal(sample["image"], trained["image"])
    assert torch.equal(truth.classes, trained["sem_seg"])
    assert torch.equal(truth.labeled, trained["sem_seg"] != 255)
    assert torch.equal(truth.center[0], trained["center"])
    assert torch.equal(truth.offset, trained["offset"])
    # Things, crowds among them.
    assert torch.equal(truth.has_offset, trained["sem_seg"] < 80)
    assert (truth.has_offset & (trained["offset_weights"][0] == 0)).any()
    assert 0 < truth.has_offset.sum() < truth.labeled.sum() < truth.labeled.numel()


def test_truth_has_the_size_of_the_file_whatever_the_network_sees(records):
    from detectron2.data import transforms as T

    record = records["coco"][1]
    sample = make([T.Resize((30, 40))])(record)
    assert sample["image"].shape == (3, 30, 40)
    assert sample["truth"].offset.shape == (2, 60, 80)
    assert torch.equal(sample["truth"].offset, make()(record)["truth"].offset)


def test_crowds_may_be_without_class(records):
    record = records["coco"][0]
    truth = make(ignore_crowd_in_semantic=True)(record)["truth"]
    crowd = (truth.offset != 0).any(dim=0) & ~truth.labeled
    assert truth.has_offset[crowd].all()
    assert crowd.any()


def test_a_label_that_does_not_fit_is_named(records, tmp_path):
    record = records["coco"][0]
    file = tmp_path / "label.png"
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(file)
    with pytest.raises(DatasetError, match=f"sizes differ: {file} is 9 x 7, .* is 60 x 80"):
        make()(record | {"pan_seg_file_name": str(file)})
    with pytest.raises(DatasetError, match="not in segments_info"):
        make()(record | {"segments_info": record["segments_info"][:1]})
