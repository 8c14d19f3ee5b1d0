"""Drawn scenes look, to post-processing, like the output of a trained network."""

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_dl.data.mapper import TestMapper
from panoptic_dl.modes.scene_maps import BenchmarkScenes, scene_maps
from panoptic_dl.postprocess import get_panoptic_segmentation

THINGS, STUFF = range(11, 19), (10, 8, 2, 0)


@pytest.mark.parametrize("num_things", [0, 5, 40])
def test_post_processing_finds_the_things(num_things):
    maps = scene_maps((256, 512), num_things, thing_ids=THINGS, stuff_ids=STUFF, sigma=4)
    panoptic, centers = get_panoptic_segmentation(*maps, THINGS, 1000, 500, -1)
    assert 0.6 * num_things <= centers.shape[1] <= 1.2 * num_things
    found = {i for i in panoptic.unique().tolist() if i >= 11000}
    assert 0.6 * num_things <= len(found) <= centers.shape[1]
    assert set(maps.sem_seg.unique().tolist()) <= {*THINGS, *STUFF}
    assert float(maps.center.min()) >= 0
    assert float(maps.center.max()) <= 1


def test_the_same_for_the_same_seed():
    first, again, other = (
        scene_maps((64, 96), 5, thing_ids=THINGS, stuff_ids=STUFF, seed=seed) for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.offset, other.offset)


def test_logits_have_the_scenes_classes():
    maps = scene_maps((64, 96), 5, thing_ids=THINGS, stuff_ids=STUFF)
    assert torch.equal(maps.logits(19).argmax(0), maps.sem_seg[0])


def scenes(**changes):
    return BenchmarkScenes(
        **{
            "size": (64, 96),
            "num_scenes": 2,
            "num_things": 4,
            "num_classes": 19,
            "thing_ids": list(THINGS),
            "sigma": 3,
            "file_format": "png",
        }
        | changes
    )


@pytest.mark.parametrize("file_format", ["png", "jpg"])
def test_images_are_read_by_the_real_mapper(file_format):
    made = scenes(file_format=file_format)
    sample = TestMapper(augmentations=[])(made.record(3))
    assert sample["image"].shape == (3, 64, 96)
    with Image.open(made.record(0)["file_name"]) as image:
        assert np.asarray(image).std() > 20
    assert made.record(0)["file_name"] != made.record(1)["file_name"]
    assert made.record(0) == made.record(2)
    assert torch.equal(made.maps(0).offset, made.maps(2).offset)


@pytest.mark.parametrize("things", [(), (0, 1, 2)])
def test_things_or_stuff_alone_make_a_scene(things):
    made = scenes(num_classes=3, thing_ids=things)
    assert set(made.maps(0).sem_seg.unique().tolist()) <= {0, 1, 2}
    assert bool((made.maps(0).center > 0.4).any()) == bool(things)
