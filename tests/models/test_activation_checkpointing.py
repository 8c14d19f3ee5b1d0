"""Recomputed activations: the same training to the last bit, with less memory."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn

from panoptic_dl.core import memory
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.backbones import HRNet, Xception65
from panoptic_dl.models.batch_norm import convert_sync_batch_norm

from .small import build_backbone, build_panoptic, make_sample


def train_both(build, steps=3, seed=3):
    """Two models after the same steps, the second with recomputed activations, and their losses."""
    plain = build()
    changed = copy.deepcopy(plain)
    assert recompute_activations(changed.backbone) > 0
    losses = []
    for model in (plain, changed):
        torch.manual_seed(seed)  # for the dropout of the ASPP, and of the backbone below
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        model.train()
        batch = [make_sample(64, 64, seed=seed), make_sample(64, 96, seed=seed + 10)]
        for _ in range(steps):
            optimizer.zero_grad()
            parts = model(batch)
            sum(parts.values()).backward()
            optimizer.step()
            losses.append(parts)
    return plain, changed, losses[:steps], losses[steps:]


def require_same(plain, changed):
    assert list(changed.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, changed.state_dict()[name]), name
    for name, parameter in plain.named_parameters():
        other = changed.get_parameter(name)
        assert torch.equal(parameter.grad, other.grad), name


@pytest.mark.parametrize("name", ["hrnet", "xception"])
@pytest.mark.parametrize("norm", ["BN", "naiveSyncBN", "GN"])
def test_losses_gradients_and_running_statistics_are_the_same_bits(name, norm):
    torch.manual_seed(0)
    plain, changed, first, second = train_both(lambda: build_panoptic(build_backbone(name, norm)))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    require_same(plain, changed)
    if norm == "BN":
        counters = [v for k, v in changed.state_dict().items() if k.endswith("batches_tracked")]
        assert {int(counter) for counter in counters} == {3}


def test_dropout_inside_a_block_is_drawn_once():
    class Dropping(nn.Module):
        """A block that draws random numbers."""

        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(nn.functional.dropout(x, 0.5, self.training))

    def build():
        torch.manual_seed(0)
        model = build_panoptic(build_backbone("hrnet", "BN"))
        model.backbone.layer1[0] = Dropping(model.backbone.layer1[0])
        return model

    plain, changed, _, _ = train_both(build, steps=1)
    require_same(plain, changed)


def test_inference_and_eval_mode_are_left_alone(monkeypatch):
    from panoptic_dl.models import activation_checkpointing

    backbone = build_backbone("hrnet", "BN")
    recompute_activations(backbone)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(activation_checkpointing, "checkpoint", never)
    backbone.eval()(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        backbone.train()(torch.randn(1, 3, 64, 64))
    with pytest.raises(AssertionError):
        backbone.train()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["hrnet", "xception"])
def test_peak_memory_falls(name):
    def peak(recompute):
        torch.manual_seed(0)
        backbone = (HRNet(width=18) if name == "hrnet" else Xception65(norm="BN")).train()
        convert_sync_batch_norm(backbone)
        if recompute:
            recompute_activations(backbone)
        images = torch.randn(1, 3, 256, 256)

        def step():
            sum(feature.mean() for feature in backbone(images).values()).backward()

        step()  # gradients are there from now on
        before = memory.reset_peaks(torch.device("cpu"))
        step()
        return memory.peak_host() - before

    plain, recomputed = peak(False), peak(True)
    assert plain > 100
    assert recomputed < 0.7 * plain


def test_backbones_that_list_no_blocks_are_told_how():
    with pytest.raises(ValueError, match="give Sequential a property `recomputable_blocks`"):
        recompute_activations(nn.Sequential(nn.Linear(1, 1)))


def test_every_backbone_lists_blocks_that_hold_most_of_its_parameters():
    for name in ("hrnet", "xception"):
        backbone = build_backbone(name)
        blocks = backbone.recomputable_blocks
        inside = {id(p) for block in blocks for p in block.parameters()}
        assert sum(len(list(b.parameters())) for b in blocks) == len(inside)  # none twice
        total = sum(p.numel() for p in backbone.parameters())
        assert sum(p.numel() for p in backbone.parameters() if id(p) in inside) > 0.6 * total


def train_on_gloo(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    torch.set_num_threads(1)

    def build():
        torch.manual_seed(0)
        model = build_panoptic(build_backbone("hrnet", "SyncBN"))
        layers = [m for m in model.backbone.modules() if isinstance(m, NaiveSyncBatchNorm)]
        assert layers
        return model

    plain, changed, _, _ = train_both(build, seed=rank)
    require_same(plain, changed)
    dist.destroy_process_group()
    with open(f"{folder}/{rank}", "w"):
        pass


def test_synchronized_statistics_are_updated_once_too(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_on_gloo, args=(port, str(tmp_path)), nprocs=2)
    assert len(list(tmp_path.iterdir())) == 2
