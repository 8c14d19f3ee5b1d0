"""timm's encoders as backbones, against timm's own features, loaders and layers."""

import copy
import importlib
import json
import logging
import re
import sys

import pytest
import timm
import torch
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from detectron2.utils import comm
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from panoptic_dl.core.errors import PartError, WeightsError
from panoptic_dl.core.files import sha256_of
from panoptic_dl.models.backbones import timm as backbones_of_timm
from panoptic_dl.models.backbones.timm import TimmBackbone
from panoptic_dl.models.batch_norm import (
    SyncBatchNorm,
    convert_sync_batch_norm,
    fold_batch_norms,
)
from panoptic_dl.weights.load import load_model, load_to_train, start_from
from tests.models.tiny_models import (
    build_panoptic,
    build_semantic,
    make_sample,
    require_same,
    train_both,
)
from tests.runs import SMALL, command_line

# timm's own networks for tests have some 0.4 M parameters.
ENCODERS = ("test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050")
PLAIN = "test_vit"


def model_of(name, **changes):
    return build_panoptic(TimmBackbone(name=name, **changes), pixel_mean=None, pixel_std=None)


def timm_file(folder, name, **changes):
    """A file as timm saves it: the whole classifier, with random weights."""
    torch.manual_seed(5)
    network = timm.create_model(name, **changes)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    file = folder / f"{name}.safetensors"
    save_file({key: value.clone() for key, value in network.state_dict().items()}, file)
    return network, file


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("stride", [None, 16, 8])
def test_features_are_those_of_timm(name, stride):
    options = {} if stride is None else {"output_stride": stride}
    backbone = TimmBackbone(name=name, output_stride=stride, norm="BN").eval()
    theirs = timm.create_model(name, features_only=True, **options).eval()
    own = dict(zip(theirs.state_dict(), backbone.encoder.state_dict().values(), strict=False))
    theirs.load_state_dict(own, strict=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = backbone(images), theirs(images)
    reductions = theirs.feature_info.reduction()
    wanted = [x for x, r in zip(expected, reductions, strict=True) if r >= 4]
    assert len(features) == len(wanted) == 4
    shapes = backbone.output_shape()
    for (feature, x), other in zip(features.items(), wanted, strict=True):
        torch.testing.assert_close(x, other)
        assert shapes[feature].channels == x.shape[1]
        assert shapes[feature].stride == 64 // x.shape[2] <= (stride or 32)


def test_a_plain_vit_gets_detectron2s_pyramid_and_takes_any_size():
    backbone = TimmBackbone(name=PLAIN).eval()
    vit = timm.create_model(PLAIN, num_classes=0, dynamic_img_size=True).eval()
    vit.load_state_dict(backbone.encoder.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 160)  # timm's default is square
    pyramid = SimpleFeaturePyramid(
        net=backbone.pyramid.net, in_feature="last", out_channels=256, scale_factors=(4, 2, 1, 0.5)
    )
    pyramid.load_state_dict(backbone.pyramid.state_dict())
    with torch.no_grad():
        last = vit.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)
        expected = pyramid.eval()(last[0])
        features = backbone(images)
    assert {name: 64 // x.shape[2] for name, x in features.items()} == {
        "p2": 4,
        "p3": 8,
        "p4": 16,
        "p5": 32,
    }
    for name, x in features.items():
        torch.testing.assert_close(x, expected[name])


@pytest.mark.parametrize(("patch", "strides"), [(14, [4, 8, 16, 32]), (8, [4, 8, 16])])
def test_patches_of_other_sides(monkeypatch, patch, strides):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, patch_size=patch, **k))
    backbone = TimmBackbone(name=PLAIN)
    assert [shape.stride for shape in backbone.output_shape().values()] == strides
    features = backbone(torch.randn(1, 3, 96, 64))
    assert [tuple(x.shape[2:]) for x in features.values()] == [(96 // s, 64 // s) for s in strides]


@pytest.mark.parametrize(
    ("stride", "names", "widths", "dilation"),
    [(None, ("res2", "res3", "res4", "res5"), (32, 64, 128), 3), (16, "235", (32, 64), 6)],
)
def test_decoders_follow_from_the_strides(stride, names, widths, dilation):
    backbone = TimmBackbone(name="test_resnet", output_stride=stride)
    automatic = {"in_features": None, "project_channels": None, "aspp_dilations": None}
    names = [f"res{name[-1]}" for name in names]
    for model, factor in (
        (build_panoptic(backbone, head=automatic), 1),
        (build_semantic(backbone, **automatic), 1.5),
    ):
        decoder = model.sem_seg_head.decoder
        assert list(decoder) == names
        projected = [decoder[name]["project_conv"].out_channels for name in names[:-1]]
        assert projected == [factor * width for width in widths]
        rates = [
            conv.dilation[0]
            for conv in decoder[names[-1]]["project_conv"].convs.modules()
            if isinstance(conv, nn.Conv2d) and conv.dilation[0] > 1
        ]
        assert rates == [dilation, 2 * dilation, 3 * dilation]


def test_pixel_statistics_are_those_of_the_weights():
    cfg = timm.get_pretrained_cfg(PLAIN)
    model = model_of(PLAIN)
    assert model.pixel_mean.flatten().tolist() == pytest.approx([255 * x for x in cfg.mean])
    assert model.pixel_std.flatten().tolist() == pytest.approx([255 * x for x in cfg.std])
    with pytest.raises(ValueError, match="HRNet has no pixel_mean"):
        build_panoptic(pixel_mean=None)


def test_out_features_select():
    backbone = TimmBackbone(name="test_resnet", out_features=["res5", "res2"])
    assert (
        list(backbone(torch.randn(1, 3, 64, 64))) == ["res2", "res5"] == [*backbone.output_shape()]
    )
    fine = TimmBackbone(name="test_resnet", out_features=["res3"])
    assert list(fine(torch.randn(1, 3, 64, 64))) == ["res3"]
    assert not any(key.startswith("layer4") for key in fine.encoder.state_dict())  # not needed
    with pytest.raises(ValueError, match=r"out_features.*res9.*has \('res2'"):
        TimmBackbone(name="test_resnet", out_features=["res9"])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", PLAIN])
def test_frozen_stages(name):
    """As in Detectron2: 1 is the stem, 2 also res2; batch normalization there is frozen, too."""
    for freeze_at in range(6):
        torch.manual_seed(0)
        backbone = TimmBackbone(name=name, freeze_at=freeze_at, norm="BN").train()
        before = copy.deepcopy(backbone.encoder.state_dict())
        features = backbone(torch.randn(2, 3, 64, 64))
        trained = [p for p in backbone.parameters() if p.requires_grad]
        if trained:
            sum(x.square().mean() for x in features.values()).backward()
            torch.optim.SGD(trained, 0.1).step()
        after = backbone.encoder.state_dict()
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        order = [key for key, _ in backbone.encoder.named_parameters()]
        frozen = [not backbone.encoder.get_parameter(key).requires_grad for key in order]
        assert frozen == sorted(frozen, reverse=True)  # the first so many
        modules = {key.rpartition(".")[0] for key, off in zip(order, frozen, strict=True) if off}
        assert not {key.rpartition(".")[0] for key in moved} & modules
        assert bool(frozen and frozen[0]) == (freeze_at > 0)
        assert all(frozen) == (freeze_at == 5)
        if freeze_at == 2 and name == "test_resnet":
            assert "layer1.0.conv1" in modules
            assert not any(key.startswith("layer2") for key in modules)
    with pytest.raises(ValueError, match=r"freeze_at=6.*0 \(nothing\), 1 \(the stem\) to 5"):
        TimmBackbone(name=name, freeze_at=6)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_normalization(name, monkeypatch, tmp_path):
    """Layers of several processes keep timm's activation and names."""
    torch.manual_seed(0)
    plain = TimmBackbone(name=name)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in plain.modules())
    with monkeypatch.context() as two:
        two.setattr(comm, "get_world_size", lambda: 2)
        synced = TimmBackbone(name=name)
        assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.modules())
        convert_sync_batch_norm(synced)
    kinds = {type(m) for m in synced.modules() if isinstance(m, nn.BatchNorm2d)}
    assert kinds == {SyncBatchNorm}
    assert list(synced.state_dict()) == list(plain.state_dict())
    synced.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        with torch.no_grad():  # in one process they compute the same
            for x, other in zip(plain(images).values(), synced(images).values(), strict=True):
                torch.testing.assert_close(x, other)
    finally:
        torch.distributed.destroy_process_group()
    frozen = TimmBackbone(name=name, norm="FrozenBN")
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in frozen.modules())
    with pytest.raises(ValueError, match="norm=GN is unknown"):
        TimmBackbone(name=name, norm="GN")


def test_folding_keeps_the_activations():
    backbone = TimmBackbone(name="test_efficientnet").eval().double()
    images = torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        before = backbone(images)
        assert fold_batch_norms(backbone, lambda: backbone(images)) > 10
        for name, x in backbone(images).items():
            torch.testing.assert_close(x, before[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*ENCODERS, PLAIN, "vit_small_patch16_dinov3", "test_mambaout"])
def test_recomputed_activations_change_nothing(name):
    def build():
        torch.manual_seed(0)
        return model_of(name, drop_path_rate=0.0 if name == "test_mambaout" else 0.3)

    plain, changed, losses, others = train_both(build, steps=2)
    for one, other in zip(losses, others, strict=True):
        assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in other.items()}
    require_same(plain, changed)


@pytest.mark.parametrize("name", [*ENCODERS, PLAIN])
def test_files_of_timm_load_whole(tmp_path, name, caplog):
    network, file = timm_file(tmp_path, name)
    model = model_of(name)
    with caplog.at_level(logging.INFO):
        coverage = load_to_train(model, file)
    assert coverage.percent == 100
    assert not coverage.faults
    assert ("from scratch: pyramid" in caplog.text) == (name == PLAIN)
    state = network.state_dict()
    for key, value in model.backbone.encoder.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.thorough
def test_files_of_earlier_names_load_as_timm_loads_them(tmp_path):
    """DINOv2's authors and earlier versions name some tensors otherwise."""
    name = "swin_s3_tiny_224"
    network, file = timm_file(tmp_path, name)
    old = {
        "layers.1.downsample": "layers.0.downsample",
        "layers.2.downsample": "layers.1.downsample",
        "layers.3.downsample": "layers.2.downsample",
        "head.fc": "head",
    }
    tensors = {
        next((key.replace(new, o) for new, o in old.items() if key.startswith(new)), key): value
        for key, value in network.state_dict().items()
    }
    save_file({key: value.clone() for key, value in tensors.items()}, file)
    theirs = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": tensors}
    )
    model = model_of(name)
    assert load_to_train(model, file).percent == 100
    state = theirs.state_dict()
    for key, value in model.backbone.encoder.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_its_own_checkpoints_load(tmp_path):
    torch.manual_seed(1)
    first, second = model_of(PLAIN), model_of(PLAIN)
    torch.save({"model": first.state_dict()}, tmp_path / "whole.pth")
    assert load_model(second, tmp_path / "whole.pth").percent == 100
    backbone = {k: v for k, v in first.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "backbone.pth")
    third = model_of(PLAIN)
    load_to_train(third, tmp_path / "backbone.pth")
    for key, value in backbone.items():
        assert torch.equal(third.state_dict()[key], value), key


def test_a_file_of_another_encoder_is_refused(tmp_path):
    _, file = timm_file(tmp_path, "test_convnext")
    model = model_of("test_resnet")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match="another architecture"):
        load_to_train(model, file)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


class TestPretrained:
    """`backbone.pretrained=true`, with a hub that is a folder."""

    def test_is_fetched_when_training_starts_and_not_before(self, tmp_path, monkeypatch, caplog):
        network, file = timm_file(tmp_path, "test_resnet.r160_in1k")
        asked = []

        def download(repository, name):
            asked.append((repository, name))
            return str(file)

        monkeypatch.setattr(backbones_of_timm, "hf_hub_download", download)
        model = model_of("test_resnet.r160_in1k", pretrained=True)
        assert not asked
        with caplog.at_level(logging.INFO):
            assert start_from(model, None, None) == file
        assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
        assert sha256_of(file) in caplog.text
        assert torch.equal(model.backbone.encoder.conv1[0].weight, network.conv1[0].weight)

    def test_given_weights_come_first(self, tmp_path, monkeypatch):
        _, file = timm_file(tmp_path, "test_resnet")
        monkeypatch.setattr(backbones_of_timm, "hf_hub_download", None)
        assert start_from(model_of("test_resnet", pretrained=True), str(file), None) == file

    def test_a_file_in_the_cache_needs_no_network(self, tmp_path, monkeypatch):
        """As `hf download` fills it on a machine that has one."""
        _, file = timm_file(tmp_path, "test_resnet")
        place = tmp_path / "models--timm--test_resnet.r160_in1k"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0123abc")
        (place / "snapshots" / "0123abc").mkdir(parents=True)
        file = file.rename(place / "snapshots" / "0123abc" / "model.safetensors")
        cached = backbones_of_timm.try_to_load_from_cache
        monkeypatch.setattr(
            backbones_of_timm, "try_to_load_from_cache", lambda *names: cached(*names, tmp_path)
        )
        monkeypatch.setattr(backbones_of_timm, "hf_hub_download", None)
        assert TimmBackbone(name="test_resnet").fetch_pretrained() == file

    @pytest.mark.parametrize("error", [LocalEntryNotFoundError("x"), ConnectionError("x")])
    def test_without_network_the_file_is_named(self, monkeypatch, error):
        def download(repository, name):
            raise error

        monkeypatch.setattr(backbones_of_timm, "hf_hub_download", download)
        url = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
        with pytest.raises(WeightsError, match=f"{re.escape(url)}.*weights=model.safetensors"):
            start_from(model_of("test_resnet", pretrained=True), None, None)

    def test_those_of_timm_are_for_rgb_images(self):
        with pytest.raises(WeightsError, match=r"feeds BGR: set dataset\.image_format=RGB"):
            start_from(model_of("test_resnet", pretrained=True), None, None, "BGR")

    def test_random_weights_are_said_to_be_meant_only_where_they_are(self, caplog):
        with caplog.at_level(logging.INFO):
            start_from(model_of("test_resnet"), None, None)
            assert "random weights; backbone.pretrained=true fetches" in caplog.text
            assert "as intended" not in caplog.text
            start_from(build_panoptic(), None, None)
            assert "random weights, as intended" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": None}, r"backbone\.name= chooses one of timm's \d+, such as"),
        (
            {"name": "test_vit", "drop_path_rate": 2},
            "drop_path_rate=2 must be a number, at least 0",
        ),
        ({"name": 18}, r"has no 18\. Did you mean"),
        ({"name": "convnext_tinny"}, "has no convnext_tinny. Did you mean: .*convnext_tiny"),
        ({"name": "convnext_tiny.fb_in21k"}, r"Did you mean: .*convnext_tiny\.fb_in22k"),
        ({"name": "mixer_s16_224"}, r"mixer_s16_224 does not take images of any size"),
        ({"name": "maxvit_pico_rw_256"}, "does not take images of any size.*divisible by window"),
        ({"name": "test_vit", "output_stride": 8}, "output_stride.*such as ResNets"),
        ({"name": "test_resnet", "output_stride": 5}, "output_stride=5.*such as ResNets"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, "cannot be made with drop_path_rate=0.1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        TimmBackbone(**options)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PartError, match=r"pip install 'panoptic-dl\[timm\]'"):
        importlib.reload(backbones_of_timm)


@pytest.mark.parametrize("name", ["test_convnext", PLAIN])
def test_a_training_step_at_an_odd_size(name):
    """Without parameters that have no part in the loss, such as a last normalization."""
    model = model_of(name).train()
    losses = model([make_sample(65, 97)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.thorough
def test_a_run_starts_from_pretrained_weights_and_notes_their_hash(tmp_path, toy, monkeypatch):
    _, file = timm_file(tmp_path, "test_resnet")
    monkeypatch.setattr(backbones_of_timm, "hf_hub_download", lambda *_: str(file))
    options = ["train.iterations=1", "train.eval_at_end=false", "logger=none", "head.norm=BN"]
    small = [each for each in SMALL if not each.startswith(("train.iterations", "backbone"))]
    options += ["backbone=timm", "backbone.name=test_resnet", "backbone.pretrained=true"]
    run_dir = tmp_path / "run"
    command_line(*small, *toy["toy_cityscapes"], *options, f"run_dir={run_dir}")
    state = json.loads((run_dir / "run.json").read_text())
    assert state["started_from"] == {"file": file.name, "sha256": sha256_of(file)}
    assert state["status"] == "finished"
    assert sha256_of(file) in (run_dir / "log.txt").read_text()
