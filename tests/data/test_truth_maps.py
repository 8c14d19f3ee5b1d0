"""Truth in the model's formats: the targets of training, of whole files."""

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.data.mapper import TestMapper, TruthMapper

from .small import panoptic_mapper

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
    assert torch.equal(truth.labelled, trained["sem_seg"] != 255)
    assert torch.equal(truth.center[0], trained["center"])
    assert torch.equal(truth.offset, trained["offset"])
    # Things, crowds among them.
    assert torch.equal(truth.has_offset, trained["sem_seg"] < 80)
    assert (truth.has_offset & (trained["offset_weights"][0] == 0)).any()
    assert 0 < truth.has_offset.sum() < truth.labelled.sum() < truth.labelled.numel()


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
    crowd = (truth.offset != 0).any(dim=0) & ~truth.labelled
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
