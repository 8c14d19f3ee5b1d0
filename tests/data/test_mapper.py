"""Samples equal those of Detectron2's mappers."""

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from panopticapi.utils import rgb2id

from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.data.mapper import PanopticTrainMapper, SemanticTrainMapper, TestMapper
from tests.data.small import panoptic_mapper

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
