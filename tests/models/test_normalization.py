"""SyncBN where several processes train, BN elsewhere, always under the same parameter names."""

import logging
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

from panoptic_dl.models import batch_norm as normalization
from panoptic_dl.models.batch_norm import convert_sync_batch_norm, head_norm
from tests.models.small import build_backbone, build_panoptic, build_semantic, make_sample


def norm_classes(model):
    return {type(module) for module in model.modules() if "Norm" in type(module).__name__}


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
def test_one_process_trains_with_plain_batch_norm(build, separable, caplog):
    arguments = {"use_depthwise_separable_conv": separable}
    with caplog.at_level(logging.INFO, logger="panoptic_dl"):
        model = build(**({"head": arguments} if build is build_panoptic else arguments))
    assert norm_classes(model) == {nn.BatchNorm2d}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "BatchNorm2d (one process, nothing to synchronize)" in messages[0]


def test_nothing_is_logged_or_changed_without_sync_batch_norm(caplog):
    backbone = build_backbone(norm="GN")
    with caplog.at_level(logging.INFO, logger="panoptic_dl"):
        model = build_panoptic(backbone, head={"norm": "GN"})
    assert norm_classes(model) == {nn.GroupNorm}
    assert not caplog.records


def test_conversion_keeps_names_values_settings_and_objects():
    model = nn.Sequential(nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3, momentum=0.2)))
    model[0][0].running_mean.fill_(3.0)
    model.eval()
    before = dict(model.state_dict(keep_vars=True))
    convert_sync_batch_norm(model)
    layer = model[0][0]
    assert type(layer) is nn.BatchNorm2d
    assert (layer.eps, layer.momentum, layer.training) == (1e-3, 0.2, False)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_several_gpus_keep_sync_batch_norm(monkeypatch):
    monkeypatch.setattr(normalization.comm, "get_world_size", lambda: 8)
    monkeypatch.setattr(normalization.dist, "get_backend", lambda: "nccl")
    assert norm_classes(build_panoptic()) == {nn.SyncBatchNorm}


def train_on_gloo(rank: int, port: int, folder: str) -> None:
    """One of two processes: forward and backward on its half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = build_panoptic().train()
    losses = model([make_sample(64, 64, seed=rank)])
    sum(losses.values()).backward()
    figures = {
        "classes": {kind.__name__ for kind in norm_classes(model)},
        "running_mean": model.backbone.bn1.running_mean,
        "gradient": model.backbone.conv1.weight.grad,
    }
    torch.save(figures, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_cpu_processes_share_their_statistics(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_on_gloo, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["classes"] == {NaiveSyncBatchNorm.__name__}

    torch.manual_seed(0)
    whole = build_panoptic().train()
    whole([make_sample(64, 64, seed=0), make_sample(64, 64, seed=1)])
    for figures in (first, second):
        torch.testing.assert_close(figures["running_mean"], whole.backbone.bn1.running_mean)
        assert figures["gradient"].isfinite().all()


@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
def test_group_norm_takes_widths_that_32_does_not_divide(build):
    changes = {"norm": "GN", "project_channels": (48, 728, 20)}
    model = build(
        build_backbone(norm="GN"), **({"head": changes} if build is build_panoptic else changes)
    )
    assert model.train()([make_sample(32, 32)])
    assert {m.num_groups for m in model.sem_seg_head.modules() if isinstance(m, nn.GroupNorm)} >= {
        16,
        8,
        4,
    }


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "LN", "", None, "naiveSyncBN", nn.BatchNorm2d])
def test_heads_take_every_norm(norm):
    model = build_panoptic(build_backbone(norm="BN"), head={"norm": norm}).train()
    sum(model([make_sample(64, 64)]).values()).backward()
    convolution = model.sem_seg_head.decoder["res2"]["project_conv"]
    assert (convolution.bias is not None) == (norm in ("", None))


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"norm='Batch' is unknown: choose BN, SyncBN"):
        head_norm("Batch")
