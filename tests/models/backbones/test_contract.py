"""What every option of `backbone=` must do; a new file in lazy_configs/backbone is tested as
well."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import Backbone
from torch import nn

from panoptic_dl.config import build, compose
from panoptic_dl.models.backbones.timm import TimmBackbone
from panoptic_dl.models.batch import padding_multiple
from panoptic_dl.weights.load import load_model
from tests.models.tiny_models import make_sample

pytestmark = pytest.mark.thorough

FOLDER = Path(__file__).parents[3] / "lazy_configs" / "backbone"
OPTIONS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "timm")
LIGHT = ("hrnet_tiny", "mobilenetv3_large", "resnet18")
BRANCHES = {"panoptic": ("semantic.", "instance."), "semantic": ("",)}
OWN = ("hrnet18", "hrnet32", "hrnet48", "xception65", "resnet52")


def options(*daily):
    """All options; those that are not tested every day are slow."""
    return [pytest.param(o, marks=() if o in daily else pytest.mark.slow) for o in OPTIONS]


@pytest.fixture(scope="class", params=options(*LIGHT, *OWN))
def config(request):
    return LazyConfig.load(str(FOLDER / f"{request.param}.py"))


@pytest.fixture(scope="class")
def backbone(config):
    torch.manual_seed(0)
    return instantiate({**config.backbone, "norm": "BN"})


class TestEveryBackbone:
    def test_detectron2_alone_makes_it_from_its_file(self, config):
        with torch.device("meta"):
            backbone = instantiate(config.backbone)
        assert isinstance(backbone, Backbone)
        if not isinstance(backbone, TimmBackbone):  # which asks for the number of processes
            assert any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules())

    @pytest.mark.parametrize("size", [(64, 96), (32, 32), (33, 47)])
    def test_output_shape_agrees_with_the_features(self, backbone, size):
        if isinstance(backbone, TimmBackbone):  # images are padded for it
            size = [32 * -(-side // 32) for side in size]
        with torch.no_grad():
            features = backbone.eval()(torch.randn(2, 3, *size))
        shapes = backbone.output_shape()
        assert list(features) == list(shapes)
        for name, shape in shapes.items():
            expected = [-(-side // shape.stride) for side in size]  # rounded up
            assert list(features[name].shape) == [2, shape.channels, *expected]

    def test_is_padded_to_whole_coarsest_pixels(self, backbone):
        coarsest = max(shape.stride for shape in backbone.output_shape().values())
        assert padding_multiple(backbone) in (16, 32)
        assert padding_multiple(backbone) % coarsest == 0

    def test_gradients_reach_all_parameters_and_are_sound_from_scratch(self, backbone):
        """Initial weights neither blow signals up nor let them vanish."""
        backbone.train().zero_grad()
        features = backbone(torch.randn(2, 3, 64, 64))
        is_ours = not isinstance(backbone, TimmBackbone)  # which starts as timm has it
        for feature in features.values():
            assert 0.05 < feature.std() < 50 or not is_ours
        sum(feature.square().mean() for feature in features.values()).backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0 or not is_ours, name

    def test_evaluation_looks_at_one_image_at_a_time(self, backbone):
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            together = backbone.eval()(images)
            alone = backbone(images[1:])
        for name, feature in alone.items():
            tolerance = 1e-4 * feature.abs().max().item()
            torch.testing.assert_close(together[name][1:], feature, rtol=0, atol=tolerance)

    def test_decoder_fits_the_backbone(self, config):
        if config.pixels.mean is None:  # all follows from the features
            assert {*config.decoder.panoptic.values(), *config.decoder.semantic.values()} == {None}
            return
        for task in ("panoptic", "semantic"):
            decoder = config.decoder[task]
            assert set(decoder) == {"in_features", "project_channels", "aspp_dilations"}
            assert set(decoder.in_features) <= set(config.backbone.out_features)
            assert len(decoder.project_channels) == len(decoder.in_features) - 1
            assert len(decoder.aspp_dilations) == 3
        assert len(config.pixels.mean) == len(config.pixels.std) == 3

    def test_out_features_select(self, config, backbone):
        name = [*backbone.output_shape()][-1]
        with torch.device("meta"):
            backbone = instantiate({**config.backbone, "norm": "BN", "out_features": [name]})
            assert list(backbone(torch.randn(2, 3, 32, 64))) == [name]
        assert list(backbone.output_shape()) == [name]

    @pytest.mark.parametrize("names", [["res2", "res9"], []])
    def test_unknown_or_no_features_are_refused(self, config, names):
        with pytest.raises(ValueError, match=r"out_features.*this backbone has .*(res2|p2)"):
            instantiate({**config.backbone, "out_features": names})


@pytest.mark.parametrize("option", options(*LIGHT))
@pytest.mark.parametrize("head", ["conv", "dsconv"])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_every_head_and_task_takes_a_step_and_its_own_checkpoint(option, head, task, tmp_path):
    narrow = [f"head.{task}.{branch}decoder_dim=16" for branch in BRANCHES[task]]
    parts = [f"backbone={option}", f"head={head}", f"task={task}"]
    config = compose([*parts, "head.aspp_channels=16", *narrow])
    torch.manual_seed(0)
    model, other = build(config.task.model), build(config.task.model)
    losses = model.train()([make_sample(65, 97)])
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    assert load_model(other, tmp_path / "model.pth").percent == 100
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
