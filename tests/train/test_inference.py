"""`precision=auto`: the same outputs from a copy, in what is faster on the machine at hand."""

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

from panoptic_dl.models import batch_norm
from panoptic_dl.models.batch_norm import NORMS
from panoptic_dl.train import inference
from panoptic_dl.train.inference import accelerate
from panoptic_dl.train.precision import plain_precision
from tests.models.tiny_models import build_backbone, build_panoptic, build_semantic

CPU = torch.device("cpu")
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}


def with_statistics(model):
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=random))
            module.running_var.uniform_(0.5, 2, generator=random)
    return model.eval()


@pytest.fixture
def fastest(monkeypatch):
    """Sets which memory format is the faster one."""

    def take(channels_last):
        seconds = iter((2.0, 1.0) if channels_last else (1.0, 2.0))
        monkeypatch.setattr(inference, "_seconds", lambda *_: next(seconds))

    return take


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
@torch.no_grad()
def test_a_copy_computes_the_same_in_the_faster_format(build, channels_last, fastest, caplog):
    fastest(channels_last)
    model = with_statistics(build(build_backbone("xception")))
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level(logging.INFO, logger="panoptic_dl"):
        fast = accelerate(model, "fp32", CPU)
    said = "channels last (2.00x)" if channels_last else "channels first (0.50x)"
    assert f"fp32, folded batch norm, {said}" in caplog.text
    assert not any(isinstance(module, NORMS) for module in fast.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    weight = next(m.weight for m in fast.modules() if isinstance(m, nn.Conv2d) and len(m.weight))
    assert weight.is_contiguous(memory_format=FORMATS[channels_last])
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for one in (fast, pickle.loads(pickle.dumps(fast))):
        for expected, got in zip(model.network(images), one.network(images), strict=True):
            assert got.is_contiguous()  # as post-processing is quick with
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_folding_that_is_not_exact_is_left_out(monkeypatch, fastest, caplog):
    fastest(False)
    original = batch_norm.fuse_conv_bn_weights
    monkeypatch.setattr(
        batch_norm,
        "fuse_conv_bn_weights",
        lambda w, b, mean, *rest: original(w, b, mean * 1.001, *rest),
    )
    model = with_statistics(build_panoptic())
    fast = accelerate(model, "fp32", CPU)
    assert "it is not exact for this network" in caplog.text
    images = torch.randn(1, 3, 64, 64)
    for expected, got in zip(model.network(images), fast.network(images), strict=True):
        assert torch.equal(got, expected)


def test_forward_passes_are_timed(monkeypatch):
    times = iter((0.0, 5.0, 10.0, 12.0, 20.0, 23.0))
    monkeypatch.setattr(inference.time, "process_time", lambda: next(times))
    model = with_statistics(build_semantic())
    assert inference._seconds(model, torch.zeros(1, 3, 64, 64), "fp32", CPU) == 2.0


@pytest.mark.parametrize(
    ("units", "chosen"),
    [
        ({}, "fp32"),
        ({"avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": 1}, "bf16"),
    ],
)
def test_bf16_where_the_processor_has_units_for_it(monkeypatch, units, chosen, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert plain_precision("a.precision", "auto", CPU) == chosen
    assert plain_precision("a.precision", "fp32", CPU) == "fp32"
    assert not caplog.records
    assert plain_precision("a.precision", "bf16", CPU) == "bf16"
    assert ("a.precision=bf16 is emulated" in caplog.text) == (chosen == "fp32")


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "fp32"), ((9, 0), "bf16")])
def test_bf16_on_gpus_that_have_it(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert plain_precision("a.precision", "auto", torch.device("cuda")) == chosen


def test_what_the_device_cannot_is_said():
    with pytest.raises(ValueError, match=r"a\.precision=fp16 needs a GPU"):
        plain_precision("a.precision", "fp16", CPU)
    with pytest.raises(ValueError, match=r"a\.precision=fp8 is unknown"):
        plain_precision("a.precision", "fp8", CPU)
