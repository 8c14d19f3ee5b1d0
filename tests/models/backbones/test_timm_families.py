"""Families of timm: each of these encoders trains a step, or is refused with the reason."""

import copy

import pytest
import timm
import torch

from panoptic_dl.core.errors import PartError
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.backbones.timm import TimmBackbone
from panoptic_dl.weights.load import load_model
from tests.models.tiny_models import build_panoptic, build_semantic, make_sample

pytestmark = pytest.mark.slow

# fmt: off
WORKING = [
    "caformer_s18", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "cpubone_nano",
    "cs3darknet_s", "cspnext_tiny", "davit_tiny", "deit3_small_patch16_224",
    "deit_tiny_patch16_224", "densenet121", "dla46_c", "dpn48b", "eca_nfnet_l0",
    "edgenext_xx_small", "efficientnet_b0", "efficientvit_b0", "ese_vovnet19b_slim_dw",
    "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gernet_s",
    "ghostnet_050", "ghostnetv2_100", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "lambda_resnet26t", "lcnet_050", "lcnetv2_small", "legacy_seresnet18",
    "lowformer_b0", "mambaout_femto", "mnasnet_small", "mobilenetv2_050", "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050", "mobileone_s0", "mobilevit_xxs", "mvitv2_tiny", "nextvit_small",
    "nf_resnet26", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002",
    "repghostnet_050", "repvgg_a0", "repvit_m0_9", "res2net50_14w_8s", "resnest14d", "resnet10t",
    "resnetv2_18", "rexnet_100", "sam2_hiera_tiny", "samvit_base_patch16_224", "selecsls42",
    "seresnext26d_32x4d", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256",
    "tiny_vit_5m_224", "tresnet_m", "twins_svt_small", "vgg11_bn", "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3", "vit_small_patch32_224", "vit_tiny_patch16_224",
    "vit_tiny_r_s16_p8_224", "vitamin_small_224", "xception41", "xcit_nano_12_p16_224",
    "xcit_nano_12_p8_224",
]
# fmt: on

ONE_SIZE = "does not take images of any size"
NO_PYRAMID = "gives no pyramid of features"
COARSE = r"common_stride=4 must be .*: head\.common_stride=(7|8|16)"
REFUSED = {
    "beit_base_patch16_224": ONE_SIZE,
    "botnet26t_256": ONE_SIZE,
    "cait_xxs24_224": ONE_SIZE,
    "coat_lite_tiny": ONE_SIZE,
    "coatnet_pico_rw_224": ONE_SIZE,
    "convit_tiny": ONE_SIZE,
    "crossvit_9_240": NO_PYRAMID,
    "csatv2": COARSE,
    "eca_halonext26ts": ONE_SIZE,
    "efficientformer_l1": ONE_SIZE,
    "efficientformerv2_s0": ONE_SIZE,
    "efficientvim_m1": COARSE,
    "efficientvit_m0": COARSE,
    "gcvit_xxtiny": ONE_SIZE,
    "hiera_tiny_224": ONE_SIZE,
    "inception_v3": NO_PYRAMID,
    "inception_v4": NO_PYRAMID,
    "legacy_xception": NO_PYRAMID,
    "levit_128s": ONE_SIZE,
    "maxvit_pico_rw_256": ONE_SIZE,
    "mixer_s16_224": ONE_SIZE,
    "mobilevitv2_050": NO_PYRAMID,
    "nest_tiny": ONE_SIZE,
    "pit_ti_224": ONE_SIZE,
    "sequencer2d_s": COARSE,
    "shvit_s1": COARSE,
    "tnt_s_patch16_224": ONE_SIZE,
    "visformer_tiny": ONE_SIZE,
    "vit_relpos_small_patch16_224": ONE_SIZE,
    "volo_d1_224": ONE_SIZE,
}
AUTOMATIC = {"in_features": None, "project_channels": None, "aspp_dilations": None}
# Two: batch normalization of 1 x 1 pixels, as in squeezing blocks, has nothing to do with one.
BATCH = [make_sample(65, 97), make_sample(64, 96, seed=1)]


def family(name):
    return timm.models._registry._model_to_module[name]


def test_there_are_many_of_many_families():
    assert len(WORKING) >= 60
    assert len({family(name) for name in WORKING}) >= 20
    assert not {*WORKING} & {*REFUSED}


@pytest.mark.parametrize("name", WORKING)
def test_takes_steps_and_its_own_checkpoint(name, tmp_path):
    torch.manual_seed(0)
    backbone = TimmBackbone(name=name)
    model = build_panoptic(backbone, pixel_mean=None, pixel_std=None, head=AUTOMATIC)
    semantic = build_semantic(
        copy.deepcopy(backbone), **AUTOMATIC, use_depthwise_separable_conv=True
    )
    recomputed = copy.deepcopy(model)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    assert load_model(recomputed, tmp_path / "model.pth").percent == 100
    if backbone.recomputable_blocks:
        recompute_activations(recomputed.backbone)
    for each in (model, semantic, recomputed):
        torch.manual_seed(1)
        losses = each.train()(BATCH)
        sum(losses.values()).backward()
        for key, parameter in each.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    for key, parameter in model.named_parameters():
        other = recomputed.get_parameter(key)
        torch.testing.assert_close(parameter.grad, other.grad, msg=key)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_is_refused_with_the_reason(name, reason):
    with pytest.raises((PartError, ValueError), match=reason):
        build_semantic(TimmBackbone(name=name), **AUTOMATIC)
