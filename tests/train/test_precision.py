"""Faster training: what is switched on, that it trains the same, and that nothing leaks out."""

from typing import Any

import pytest
import torch

from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.train.precision import (
    check_precision,
    float32,
    prepare_training,
    training_arithmetic,
)
from tests.models.tiny_models import build_panoptic, make_sample
from tests.train.tiny_run import (
    RECORDS,
    TinyEvaluation,
    TinyModel,
    losses,
    metrics,
    run_training,
    same,
    state,
    tiny_sample,
    train_settings,
)

pytestmark = pytest.mark.thorough

STRICT, ROUNDED = ("ieee",) * 5, ("tf32", "tf32", "ieee", "ieee", "ieee")


def flags():
    """Of convolutions, recurrent layers and matrix products on a GPU; of both on the CPU."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    operators = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.conv, mkldnn.matmul)
    return tuple(operator.fp32_precision for operator in operators)


@pytest.fixture
def used_before(request):
    """What a user may have set before, by the older or the newer API; all is taken back."""
    operators = (torch.backends, torch.backends.cudnn, torch.backends.cudnn.conv)
    operators += (torch.backends.cudnn.rnn, torch.backends.cuda.matmul, torch.backends.mkldnn)
    operators += (torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)
    before = [(operator, operator.fp32_precision) for operator in operators]
    if request.param == "older":
        torch.set_float32_matmul_precision("high")
    elif request.param == "newer":
        torch.backends.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision
    elif request.param == "mixed":
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    if request.param == "older":
        torch.set_float32_matmul_precision("highest")
    for operator, precision in before:
        operator.fp32_precision = precision


@pytest.mark.parametrize("used_before", ["nothing", "older", "newer", "mixed"], indirect=True)
@pytest.mark.parametrize("tf32", [True, False])
def test_float32_is_said_and_taken_back_also_after_an_error(tf32, used_before):
    before = flags()
    with pytest.raises(KeyError), float32(tf32=tf32):  # noqa: PT012
        assert flags() == (ROUNDED if tf32 else STRICT)
        raise KeyError
    assert flags() == before


def test_libraries_that_read_the_older_flags_still_can():
    """As PyTorch's compiler does, and `torch.backends.cudnn.flags`."""
    for tf32 in (True, False):
        with float32(tf32=tf32):
            assert torch.backends.cudnn.allow_tf32 == tf32
            assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_threads_that_come_and_go_leave_what_was_before():
    torch.set_float32_matmul_precision("high")
    try:
        before = flags()
        first, second, third = (float32(tf32=tf32) for tf32 in (True, False, True))
        for each in (first, second):
            each.__enter__()
        first.__exit__(None, None, None)
        assert flags() == STRICT
        third.__enter__()
        second.__exit__(None, None, None)
        assert flags() == ROUNDED
        third.__exit__(None, None, None)
        assert flags() == before
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_the_precision_of_products_that_a_user_chose_can_still_be_read(products):
    try:
        torch.set_float32_matmul_precision(products)
        before = flags()
        with float32(tf32=True):
            assert flags() == ROUNDED
        assert torch.get_float32_matmul_precision() == products
        assert flags() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("precision", "wanted"), [("tf32", ROUNDED), ("fp32", STRICT)])
def test_training_sets_float32_and_the_next_job_does_not_inherit_it(precision, wanted):
    before = flags()
    with training_arithmetic(train_settings(precision=precision)):
        assert flags() == wanted
    assert flags() == before


def test_fp32_is_strict_while_training_and_everything_is_as_before_afterwards(tmp_path):
    seen = []

    class Watching(TinyModel):
        def forward(self, batch):
            seen.append(flags())
            return super().forward(batch)

    before = flags()
    run_training(tmp_path, model=Watching(), iterations=2)
    assert seen == [STRICT] * 2
    assert flags() == before


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp8", "train.precision=fp8 is unknown"), ("fp16", "needs a GPU")],
)
def test_what_the_cpu_cannot_is_said(tmp_path, precision, message):
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, precision=precision)


def test_what_the_cpu_cannot_evaluate_in_is_said_before_training(tmp_path):
    evaluation: Any = TinyEvaluation()
    evaluation.settings = EvaluationSettings(precision="fp16")
    with pytest.raises(ValueError, match=r"evaluation\.precision=fp16 needs a GPU"):
        run_training(tmp_path, evaluation=evaluation)
    assert not any(tmp_path.iterdir())


def test_what_a_gpu_cannot_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    place = torch.device("cuda")
    for capability, refused in (((6, 1), ("bf16", "fp16")), ((7, 5), ("bf16",)), ((8, 0), ())):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        for precision in ("fp32", "tf32", "bf16", "fp16"):
            if precision in refused:
                with pytest.raises(ValueError, match=rf"x={precision}: Tesla T4 \(.*; choose"):
                    check_precision("x", precision, place)
            else:
                check_precision("x", precision, place)


def test_tf32_is_fp32_on_the_cpu(tmp_path):
    for precision in ("tf32", "fp32"):
        run_training(tmp_path / precision, precision=precision)
    assert losses(tmp_path / "tf32") == losses(tmp_path / "fp32")
    assert same(state(tmp_path / "tf32")["model"], state(tmp_path / "fp32")["model"])


def test_channels_last_reaches_the_activations_and_changes_losses_by_rounding_only():
    def losses_of(channels_last):
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

    plain_formats, plain_names, plain = losses_of(False)
    formats, names, found = losses_of(True)
    assert (plain_formats, formats) == ([False], [True])
    assert names == plain_names
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_trains_the_same_and_evaluates_uncompiled(tmp_path, monkeypatch, backend):
    calls = []
    real = torch.compile

    def counted(function, mode=None):
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
    found = [[line["total_loss"] for line in metrics(tmp_path / n)] for n in ("plain", "fast")]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_machine_that_cannot_compile_says_so_at_once(tmp_path, monkeypatch):
    def broken(function, mode=None):
        raise RuntimeError("no compiler in sight")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*no compiler in sight"):
        run_training(tmp_path, compile=True)


@pytest.mark.parametrize(
    ("compile", "mode"), [(True, None), ("default", "default"), ("reduce-overhead",) * 2]
)
def test_the_heads_of_detectron2_are_compiled_too(monkeypatch, compile, mode):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda f, mode=None: modes.append(mode) or f)
    model = build_panoptic()
    names = list(model.state_dict())
    prepare_training(model, train_settings(compile=compile))
    assert modes == [None, *[mode] * 3]  # the trial, backbone, heads
    assert list(model.state_dict()) == names
    assert "chosen" in model.backbone.forward.__name__
    assert "chosen" in model.sem_seg_head.layers.__name__
    assert "chosen" in model.ins_embed_head.layers.__name__
