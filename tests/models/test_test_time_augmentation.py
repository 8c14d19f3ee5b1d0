"""Test-time augmentation averages maps that fit each other."""

import pytest
import torch

from panoptic_dl.models.test_time_augmentation import TestTimeAugmentation as Augmented
from tests.models.tiny_models import NUM_CLASSES, THINGS, build_panoptic

SIZE = (64, 96)


class Blobs:
    """In place of a network: the bright rectangle of an image is an instance, the rest is stuff.

    What it says of a mirrored or enlarged image is what the mirrored or enlarged truth would say.
    """

    def __call__(self, images):
        bright = images[:, :1] > 0.5
        ys = torch.arange(images.shape[2], dtype=torch.float32).view(1, 1, -1, 1)
        xs = torch.arange(images.shape[3], dtype=torch.float32).view(1, 1, 1, -1)
        number = bright.sum()
        y, x = (ys * bright).sum() / number, (xs * bright).sum() / number
        self.seen = [*getattr(self, "seen", []), tuple(images.shape[2:])]
        classes = torch.where(bright, THINGS[0], 0)[:, 0]
        logits = torch.nn.functional.one_hot(classes, NUM_CLASSES).permute(0, 3, 1, 2) * 9.0
        center = torch.exp(-((ys - y) ** 2 + (xs - x) ** 2) / 200)
        offset = torch.cat(((y - ys).expand_as(center), (x - xs).expand_as(center)), dim=1)
        return logits, center, offset


@pytest.fixture
def model():
    model = build_panoptic(size_divisibility=32).eval()
    model.network = Blobs()
    return model


def scene():
    image = torch.zeros(3, *SIZE)
    image[:, 16:32, 8:40] = 255.0  # off the middle, so that a mirror image differs
    return image


def test_one_look_is_the_model_itself(model):
    with torch.no_grad():
        (plain,), (averaged,) = (
            run([{"image": scene()}]) for run in (model, Augmented(model, scales=[1.0], flip=False))
        )
    assert torch.equal(plain["panoptic_seg"][0], averaged["panoptic_seg"][0])
    assert torch.allclose(plain["sem_seg"].softmax(0), averaged["sem_seg"].exp(), atol=1e-6)


@pytest.mark.parametrize("scale_offsets", [False, True])
@pytest.mark.parametrize(("scales", "flip"), [([1.0], True), ([2.0], False), ([1.0, 2.0], True)])
def test_maps_of_all_looks_agree(model, scales, flip, scale_offsets):
    """Offsets would be off by the sign or the scale; the averaged ones must lead to the center."""
    model.scale_offsets = scale_offsets
    averaged = Augmented(model, scales=scales, flip=flip)
    sample = {"image": scene(), "height": SIZE[0], "width": SIZE[1]}
    with torch.no_grad():
        views = [averaged._predict(sample, *view) for view in averaged.views]
        (output,) = averaged([sample])
    center = torch.tensor([23.5, 23.5])
    ys, xs = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    for probabilities, _, offset in views:
        led = torch.stack((ys, xs)) + offset
        inside = (slice(None), slice(18, 30), slice(12, 36))
        # A pixel of the enlarged image lies a quarter of a pixel aside; nearly all is the center.
        assert (led[inside] - center.view(2, 1, 1)).abs().max() < 0.5
        assert torch.allclose(probabilities.sum(0), torch.ones(SIZE), atol=1e-5)
    panoptic = output["panoptic_seg"][0]
    assert (panoptic[18:30, 12:36] // 1000 == THINGS[0]).all()
    assert len(panoptic[16:32, 8:40].unique()) == 1
    expected = {(round(SIZE[0] * s), round(SIZE[1] * s)) for s in scales}
    assert set(model.network.seen) == expected
    assert len(model.network.seen) == 2 * len(scales) * (1 + flip)


def test_a_mirrored_offset_with_the_wrong_sign_would_show(model):
    averaged = Augmented(model, scales=[1.0], flip=True)
    sample = {"image": scene(), "height": SIZE[0], "width": SIZE[1]}
    with torch.no_grad():
        plain, mirrored = (averaged._predict(sample, 1.0, turn) for turn in (False, True))
    for one, other in zip(plain, mirrored, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_the_semantic_model_averages_probabilities():
    from panoptic_dl.models.deeplab_v3plus import DeepLabV3Plus
    from tests.models.tiny_models import build_semantic

    model: DeepLabV3Plus = build_semantic().eval()
    torch.manual_seed(0)
    sample = {"image": torch.randint(0, 256, (3, 64, 96)).float(), "height": 80, "width": 90}
    mirror = sample | {"image": sample["image"].flip(-1)}
    with torch.no_grad():
        (straight,), (turned,) = model([sample]), model([mirror])
        (averaged,) = Augmented(model, scales=[1.0], flip=True)([sample])
    mean = (straight["sem_seg"].softmax(0) + turned["sem_seg"].flip(-1).softmax(0)) / 2
    assert averaged["sem_seg"].shape == (NUM_CLASSES, 80, 90)
    assert torch.allclose(averaged["sem_seg"].exp(), mean, atol=1e-6)


def test_what_cannot_be_averaged_is_refused(model):
    with pytest.raises(ValueError, match="not a Linear"):
        Augmented(torch.nn.Linear(1, 1), scales=[1.0], flip=True)
    model.predict_semantic = model.predict_instances = False
    with pytest.raises(ValueError, match="predict_semantic=true"):
        Augmented(model, scales=[1.0], flip=True)
