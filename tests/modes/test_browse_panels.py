"""Panels of training samples show what the network gets, at any size."""

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_dl.core.classes import Classes
from panoptic_dl.modes.browse import save_sample
from tests.modes.training_samples import by_start, sample_of

RED, GREEN = (200, 30, 30), (30, 200, 30)

CLASSES = Classes(("stuff", "thing"), (RED, GREEN), (1,))


def test_panels_of_a_made_sample():
    sample = sample_of()
    shown = by_start(sample, CLASSES)
    assert len(shown) == 6
    assert (shown["labels"][:4, :5] == GREEN).all()
    assert (shown["labels"][4:7] == RED).all()
    assert not shown["labels"][7].any()
    heat = shown["center heatmap"].astype(int)
    assert tuple(heat[2, 2]) == (252, 255, 164)
    assert np.ptp(heat[:7], axis=-1)[sample["center"][:7].numpy() == 0].max() <= 1  # gray
    assert (heat[7, :, 0] - heat[7, :, 1] > 50).all()  # red: no weight
    image, lit = shown["image"], shown["weights of the semantic loss"]
    assert (lit[:4, :5] == image[:4, :5]).all()  # of weight 3
    assert np.allclose(lit[4:7], image[4:7] * (1 / 3) ** 0.7, atol=0.51)
    assert not lit[7].any()
    del sample["center"]
    assert list(by_start(sample, CLASSES)) == ["image", "labels"]


def test_bgr_images_are_shown_in_their_true_colors():
    sample = sample_of()
    rgb = by_start(sample, CLASSES)["image"]
    sample["image"] = sample["image"].flip(0)
    assert (by_start(sample, CLASSES, image_format="BGR")["image"] == rgb).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (700, 900)])
def test_any_size_is_drawn(tmp_path, size):
    sample = sample_of((8, 10))
    for key, value in sample.items():
        if isinstance(value, torch.Tensor):
            sample[key] = torch.zeros((*value.shape[:-2], *size), dtype=value.dtype)
    sample["file_name"] = f"{'long' * 60}.png"
    save_sample(sample, tmp_path / "a.png", CLASSES, ignore_label=255, image_format="RGB")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width >= 3 * 480
        assert picture.height < 2 * 1100  # two rows of panels, at most twice as high as wide
