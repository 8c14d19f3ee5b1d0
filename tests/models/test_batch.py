"""Batches: any image works in training and inference, with heads made for the crop."""

import pytest
import torch

from tests.models.tiny_models import (
    NUM_CLASSES,
    build_backbone,
    build_panoptic,
    build_semantic,
    make_sample,
)

SIZES = [(1, 1), (3, 100), (32, 32), (33, 47), (100, 260)]
# A crop larger than the images, one smaller than some, one that is no multiple of any stride.
TRAIN_SIZES = [(512, 1024), (64, 64), (65, 97), None]


@pytest.fixture(scope="module", params=["hrnet", "xception", "xception32"])
def backbone(request):
    return build_backbone(request.param, norm="BN")


@pytest.fixture(scope="module", params=[build_panoptic, build_semantic])
def model(request, backbone):
    return request.param(backbone)


@pytest.mark.parametrize("size", SIZES)
def test_one_image_in_training(model, size):
    losses = model.train()([make_sample(*size)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.thorough
def test_images_of_different_sizes_in_one_batch(model):
    samples = [make_sample(*size) for size in SIZES]
    losses = model.train()(samples)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        outputs = model.eval()(samples)
    assert [x["sem_seg"].shape for x in outputs] == [(NUM_CLASSES, *size) for size in SIZES]


@pytest.mark.parametrize("size", SIZES)
def test_one_image_in_inference(model, size):
    with torch.no_grad():
        output = model.eval()([{"image": make_sample(*size)["image"]}])[0]
    assert output["sem_seg"].shape == (NUM_CLASSES, *size)
    assert output["sem_seg"].isfinite().all()
    if "panoptic_seg" in output:
        assert output["panoptic_seg"][0].shape == size
        assert output["instances"].image_size == size


@pytest.mark.parametrize("train_size", TRAIN_SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_any_crop_size(train_size, size):
    model = build_panoptic(head={"train_size": train_size})
    losses = model.train()([make_sample(*size)])
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        model.eval()([make_sample(*size)])


def test_only_a_single_feature_pixel_is_padded_further():
    """Batch normalization needs two values per channel; all else keeps the reference's padding."""
    model = build_panoptic()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    one, two = [make_sample(32, 32)], [make_sample(32, 32), make_sample(32, 32)]
    model.train()
    for batch in (one, two, [make_sample(33, 32)]):
        model(batch)
    model.eval()
    with torch.no_grad():
        model(one)
    assert [tuple(shape) for shape in seen] == [
        (1, 3, 32, 64),
        (2, 3, 32, 32),
        (1, 3, 64, 32),
        (1, 3, 32, 32),
    ]


@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
def test_an_image_without_pixels_is_refused(build):
    with pytest.raises(ValueError, match=r"image 1 of the batch \(b.png\) is 0 x 40 pixels"):
        build()(
            [make_sample(32, 32), {"image": torch.zeros(3, 0, 40), "file_name": "b.png"}],
        )
