"""DeepLabV3+'s inputs and outputs, held against Detectron2's own segmentor."""

import pytest
import torch
from detectron2.modeling import SemanticSegmentor

from tests.models.tiny_models import NUM_CLASSES, build_semantic, make_sample


@pytest.fixture(scope="module")
def model():
    return build_semantic(aspp_dropout=0.0, train_size=None)


@pytest.mark.parametrize("training", [False, True])
def test_equals_detectron2(model, training):
    samples = [make_sample(60, 90), make_sample(70, 65, seed=1)]
    samples[1] |= {"height": 101, "width": 99}
    model.train(training)
    with torch.no_grad():
        ours = model(samples)
        theirs = SemanticSegmentor.forward(model, samples)
    if training:
        assert ours == theirs
        assert ours["loss_sem_seg"] > 0
    else:
        assert [list(x) for x in ours] == [["sem_seg"], ["sem_seg"]]
        assert all(
            torch.equal(*(x["sem_seg"] for x in pair)) for pair in zip(ours, theirs, strict=True)
        )
        assert ours[1]["sem_seg"].shape == (NUM_CLASSES, 101, 99)


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_image_is_described(model, training):
    with pytest.raises(ValueError, match=r"shape \(4, 64, 64\): expected \(3, H, W\)"):
        model.train(training)([{"image": torch.zeros(4, 64, 64)}])


def test_pixel_statistics_are_not_in_checkpoints(model):
    assert model.pixel_mean.flatten().tolist() == [128, 128, 128]
    assert all("pixel" not in name for name in model.state_dict())
