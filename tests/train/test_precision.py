"""Faster training: what is switched on, that it trains the same, and that nothing leaks out."""

import pytest
import torch

from panoptic_dl.train.precision import (
    check_precision,
    float32,
    prepare_training,
    training_arithmetic,
)
from tests.models.tiny_models import build_panoptic, make_sample
from tests.train.tiny_run import (
    RECORDS,
    TinyModel,
    metrics,
    run_training,
    state,
    tiny_sample,
    train_settings,
)

pytestmark = pytest.mark.thorough

FLAGS = torch.backends.cuda.matmul, torch.backends.cudnn


def flags():
    return tuple(backend.allow_tf32 for backend in FLAGS)


@pytest.mark.parametrize("tf32", [True, False])
def test_float32_is_said_and_taken_back_also_after_an_error(tf32):
    before = flags()
    with pytest.raises(KeyError), float32(tf32=tf32):  # noqa: PT012
        assert flags() == (tf32, tf32)
        raise KeyError
    assert flags() == before


@pytest.mark.parametrize(("precision", "wanted"), [("tf32", True), ("fp32", False)])
def test_training_sets_float32_and_the_next_job_does_not_inherit_it(precision, wanted):
    before = flags()
    with training_arithmetic(train_settings(precision=precision)):
        assert flags() == (wanted, wanted)
    assert flags() == before


def test_fp32_is_strict_while_training_and_everything_is_as_before_afterwards(tmp_path):
    seen = []

    class Watching(TinyModel):
        def forward(self, batch):
            seen.append(flags())
            return super().forward(batch)

    before = flags()
    run_training(tmp_path, model=Watching(), iterations=2)
    assert seen == [(False, False)] * 2
    assert flags() == before


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp8", "train.precision=fp8 is unknown"), ("tf32", "needs a GPU"), ("fp16", "needs a GPU")],
)
def test_what_the_device_cannot_is_said(tmp_path, precision, message):
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, precision=precision)
    check_precision("train.precision", "tf32", torch.device("cuda"))


def test_channels_last_reaches_the_activations_and_changes_losses_by_rounding_only():
    def losses(channels_last):
        torch.manual_seed(0)
        model = build_panoptic().train()
        prepare_training(model, train_settings(channels_last=channels_last))
        formats = []
        model.backbone.layer1.register_forward_hook(
            lambda module, inputs, output: formats.append(
                output.is_contiguous(memory_format=torch.channels_last)
            )
        )
        torch.manual_seed(0)
        found = model([make_sample(64, 64)])
        return formats, list(model.state_dict()), found

    plain_formats, plain_names, plain = losses(False)
    formats, names, found = losses(True)
    assert (plain_formats, formats) == ([False], [True])
    assert names == plain_names
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_trains_the_same_and_evaluates_uncompiled(tmp_path, monkeypatch, backend):
    calls = []
    real = torch.compile

    def counted(function):
        fast = real(function, backend=backend)

        def call(*inputs):
            calls.append(1)
            return fast(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", counted)
    # Not Adam: it makes steps of rounding errors, where a bias before a normalisation has no slope.
    sgd = {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.05)}
    plain_model, model = TinyModel(), TinyModel()
    for each in (plain_model, model):  # compiled dropout draws other numbers
        each.backbone = each.backbone[:2]
    run_training(tmp_path / "plain", iterations=3, model=plain_model, **sgd)
    assert not calls

    def evaluation(model, folder, *, source):
        number = len(calls)
        model.eval()
        model([tiny_sample(record) for record in RECORDS[:8]])
        model.train()
        assert len(calls) == number
        return {"metrics": {"PQ": 50.0}}

    run_training(
        tmp_path / "fast", iterations=3, compile=True, model=model, evaluation=evaluation, **sgd
    )
    assert len(calls) == 1 + 3  # the trial, and the steps
    plain, fast = (state(tmp_path / name)["model"] for name in ("plain", "fast"))
    assert list(plain) == list(fast)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)
    losses = [[line["total_loss"] for line in metrics(tmp_path / n)] for n in ("plain", "fast")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_machine_that_cannot_compile_says_so_at_once(tmp_path, monkeypatch):
    def broken(function):
        raise RuntimeError("no compiler in sight")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*no compiler in sight"):
        run_training(tmp_path, compile=True)


def test_the_heads_of_detectron2_are_compiled_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    model = build_panoptic()
    names = list(model.state_dict())
    prepare_training(model, train_settings(compile=True))
    assert list(model.state_dict()) == names
    assert "chosen" in model.backbone.forward.__name__
    assert "chosen" in model.sem_seg_head.layers.__name__
    assert "chosen" in model.ins_embed_head.layers.__name__
