"""The training step: precision, accumulation, clipping, losses that are not finite."""

import json
import traceback
from functools import partial

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.train import trainer as trainer_module
from panoptic_dl.train.train import build_optimizer
from tests.train.tiny_run import (
    Partly,
    Stopping,
    TinyModel,
    losses,
    metrics,
    refuse_writing,
    run_training,
    same,
    state,
    tiny_loader,
)

UNGROUPED = {"aspect_ratio_grouping": False}


@pytest.mark.thorough
def test_bf16_trains_on_the_cpu(tmp_path):
    run_training(tmp_path / "full", iterations=80, period=100)
    run_training(tmp_path / "half", iterations=80, period=100, precision="bf16")
    full, half = ([x["total_loss"] for x in metrics(tmp_path / d)] for d in ("full", "half"))
    assert sum(full[-5:]) < 0.4 * sum(full[:5])
    assert half != full
    assert sum(half[-20:]) == pytest.approx(sum(full[-20:]), rel=0.3)


class Plain(TinyModel):
    """Without batch statistics and dropout, where accumulation is exact."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 8)


def test_accumulated_micro_batches_train_like_the_whole_batch(tmp_path):
    """No image in common is needed: the order makes groups of 8, or of 4 in another order."""
    run_training(tmp_path / "whole", model=Plain(), loader=tiny_loader(**UNGROUPED))
    parts = tiny_loader(**UNGROUPED, accumulate=4)
    run_training(tmp_path / "parts", model=Plain(), loader=parts)
    whole, parts = ([x["total_loss"] for x in metrics(tmp_path / d)] for d in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-5)
    weights = state(tmp_path / "whole")["model"], state(tmp_path / "parts")["model"]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_micro_batches_add_to_gradients_that_cuda_graphs_do_not_own(tmp_path, monkeypatch):
    """PyTorch would keep the first one's, in memory that the next replay of a graph takes."""
    monkeypatch.setattr("panoptic_dl.train.train.prepare_training", lambda *_: None)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    seen = []

    class Watching(Plain):
        def forward(self, batch):
            seen.append(self.head.weight.grad)
            return super().forward(batch)

    for folder, compiled in (("graphs", "max-autotune"), ("plain", False)):
        loader = tiny_loader(**UNGROUPED, accumulate=2)
        run_training(tmp_path / folder, model=Watching(), loader=loader, compile=compiled)
    graphs, plain = seen[:12], seen[12:]
    assert all(first is second for first, second in zip(graphs[::2], graphs[1::2], strict=True))
    assert None not in graphs
    assert plain[0] is None
    assert losses(tmp_path / "graphs") == losses(tmp_path / "plain")


def test_gradients_are_clipped_to_the_norm(tmp_path):
    """SGD at rate 1 moves the weights by the gradient: by the norm that it was shrunk to."""
    options = {
        "iterations": 1,
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
        "schedule": lambda optimizer: WarmupPolyLR(optimizer, max_iters=1, warmup_iters=0),
        "eval_at_end": False,
    }
    for clip, expected in ((1e-3, 1e-3), (1e9, None)):
        before = Plain().state_dict()
        run_training(tmp_path / str(clip), model=Plain(), clip_norm=clip, **options)
        after = state(tmp_path / str(clip))["model"]
        moved = sum(float((after[n] - before[n]).double().square().sum()) for n in before) ** 0.5
        norm = metrics(tmp_path / str(clip))[0]["grad_norm"]
        assert norm > 1
        assert moved == pytest.approx(expected or norm, rel=1e-3)


def test_overfit_batches_repeat(tmp_path):
    class Watching(Plain):
        def forward(self, batch):
            seen.append(torch.stack([s["numbers"] for s in batch]))
            return super().forward(batch)

    seen = []
    run_training(tmp_path, model=Watching(), overfit_batches=2)
    assert all(torch.equal(seen[i], seen[i % 2]) for i in range(6))
    assert not torch.equal(seen[0], seen[1])


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "nonfinite.jsonl").read_text().splitlines()]


def test_stop_before_the_weights_change(tmp_path):
    model = TinyModel()
    model.fail_at = 4
    with pytest.raises(FloatingPointError, match=r"iteration=3: .*loss_fit nan.*train.clip_norm"):
        run_training(tmp_path, model=model)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    (line,) = lines(tmp_path)
    assert line["iteration"] == 3
    assert len(line["images"]) == 8  # none is to blame alone
    assert line["figures"]["loss_fit"] == "nan"
    assert not line["skipped"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_image_to_blame_is_named(tmp_path, accumulate):
    with pytest.raises(FloatingPointError, match="Images: 11;"):
        run_training(tmp_path, model=TinyModel(poison=(11,)), accumulate=accumulate)
    assert lines(tmp_path)[0]["images"] == [{"image_id": 11, "file_name": "11.png"}]


class Spoiling(TinyModel):
    """Not a number before BatchNorm, whose running statistics it would spoil."""

    def forward(self, batch):
        self.calls += 1
        if self.calls == 4:
            numbers = batch[0]["numbers"] * float("inf")
            batch = [batch[0] | {"numbers": numbers}, *batch[1:]]
        self.calls -= 1
        return super().forward(batch)


def test_a_step_left_out_leaves_nothing_behind(tmp_path):
    """As if the step had not happened, but for its number; then the run goes on."""
    model = Spoiling()
    run_training(tmp_path, model=model, on_nonfinite="skip", iterations=6)
    before, after = (state(tmp_path, f"model_000000{i}.pth")["model"] for i in (3, 5))
    assert all(v.isfinite().all() for v in after.values())
    assert not same(before, after)
    assert state(tmp_path)["trainer"]["skips"] == 1
    (line,) = lines(tmp_path)
    assert line["skipped"]
    assert line["iteration"] == 3


def test_statistics_are_those_from_before_the_step(tmp_path):
    run_training(tmp_path / "short", iterations=3, period=1)
    run_training(
        tmp_path / "long", iterations=4, period=1, model=Spoiling(), on_nonfinite="skip", kept=9
    )
    third, skipped = (state(tmp_path / "long", f"model_000000{i}.pth")["model"] for i in (2, 3))
    assert same(third, skipped)


def test_skips_are_bounded_over_resumed_runs(tmp_path):
    options = {"on_nonfinite": "skip", "max_nonfinite_skips": 2, "poison": (1, 5, 9)}
    poison = options.pop("poison")
    with pytest.raises(FloatingPointError, match=r"more than the 2 steps .*max_nonfinite_skips"):
        run_training(tmp_path, model=TinyModel(poison), iterations=20, period=1, **options)
    done = state(tmp_path, (tmp_path / "last_checkpoint").read_text())["trainer"]
    assert done["skips"] == 2
    with pytest.raises(FloatingPointError):
        run_training(
            tmp_path, model=TinyModel(poison), iterations=20, resume=True, period=1, **options
        )


def test_an_infinite_gradient_is_noticed_though_the_loss_is_finite(tmp_path):
    class Steep(TinyModel):
        def forward(self, batch):
            result = super().forward(batch)
            # The square root's slope at 0 is infinite; its value is not.
            return result | {"loss_root": (self.head.bias - self.head.bias.detach()).sqrt().sum()}

    with pytest.raises(FloatingPointError, match="grad_norm"):
        run_training(tmp_path, model=Steep())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Growing(TinyModel):
        """A buffer that no loss depends on grows over all bounds."""

        def __init__(self):
            super().__init__()
            self.register_buffer("size", torch.ones(1))

        def forward(self, batch):
            self.size = self.size * 1e20
            return super().forward(batch)

    with pytest.raises(FloatingPointError, match="size is infinite or not a number after iter"):
        run_training(tmp_path, model=Growing())
    assert not list(tmp_path.glob("*.pth*"))


def test_losses_of_left_out_steps_are_logged(tmp_path):
    model = TinyModel()
    model.fail_at = 3
    run_training(tmp_path, model=model, on_nonfinite="skip")
    logged = [line["total_loss"] for line in losses(tmp_path)]
    assert [x != x for x in logged] == [False, False, True, False, False, False]


def test_a_full_disk_does_not_hide_what_went_wrong(tmp_path, monkeypatch, caplog):
    refuse_writing(monkeypatch, "nonfinite.jsonl")
    with pytest.raises(FloatingPointError, match="Images: 7;"):
        run_training(tmp_path, model=TinyModel(poison=(7,)))
    assert "Cannot write" in caplog.text


def test_parameters_without_part_in_the_loss_are_named_in_the_first_step(tmp_path):
    model, message = (
        Partly(),
        r"^2 parameters take .*: fc\.weight, fc\.bias\. .*freeze them.*=true$",
    )
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, model=model)
    assert model.calls == 1
    run_training(tmp_path, model=Partly(), find_unused_parameters=True)


def test_blocks_that_are_computed_again_take_part(tmp_path):
    class Again(TinyModel):
        reentrant = False

        def forward(self, batch):
            self.backbone.forward = lambda x: checkpoint(
                nn.Sequential(*self.backbone), x.requires_grad_(), use_reentrant=self.reentrant
            )
            return super().forward(batch)

    for Again.reentrant in (False, True):
        run_training(tmp_path / str(Again.reentrant), model=Again(), iterations=1)


def fused(model):
    """An optimizer that leaves out a step by itself."""
    return build_optimizer(
        model,
        optimizer=partial(torch.optim.Adam, fused=True),
        lr=0.05,
        weight_decay=0.0,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
    )


def run_queued(run_dir, **changes):
    """As on a GPU: the metrics of a step are read after the next one's gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "QUEUED_DEVICES", ("cpu",))
        return run_training(run_dir, optimizer=fused, **changes)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1, "accumulate": 2, "ema": 0.9}])
def test_queued_steps_are_the_same_steps(tmp_path, options):
    read = {}
    real = trainer_module.Trainer.settle

    def counted(trainer, buffers=()):
        if trainer._pending is not None:
            read.setdefault(trainer._pending.iteration, trainer.iter)
        return real(trainer, buffers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "settle", counted)
        run_queued(tmp_path / "queued", iterations=7, log_period=3, **options)
    # Late, but for the lines of metrics.json, the checkpoints and the last step.
    assert read == {0: 1, 1: 1, 2: 2, 3: 3, 4: 5, 5: 5, 6: 6}
    run_training(tmp_path / "read", iterations=7, log_period=3, optimizer=fused, **options)
    assert losses(tmp_path / "queued") == losses(tmp_path / "read")
    assert same(state(tmp_path / "queued"), state(tmp_path / "read"))


@pytest.mark.parametrize("period", [2, 4, 100])
def test_a_queued_step_that_is_not_finite_changes_nothing_and_is_never_saved(tmp_path, period):
    schedule = partial(WarmupPolyLR, max_iters=6, warmup_iters=2)
    run_training(tmp_path / "before", iterations=3, optimizer=fused, schedule=schedule)
    model = TinyModel()
    model.fail_at = 4
    with pytest.raises(FloatingPointError, match=r"iteration=3: .*loss_fit nan"):
        run_queued(tmp_path / "bad", model=model, log_period=100, period=period)
    weights = state(tmp_path / "before")["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert {path.name for path in (tmp_path / "bad").glob("*.pth")} <= {"model_0000001.pth"}
    (line,) = lines(tmp_path / "bad")
    assert (line["iteration"], line["skipped"]) == (3, False)
    assert metrics(tmp_path / "bad")[-1]["iteration"] == 3


def test_the_image_of_a_queued_step_is_named(tmp_path):
    with pytest.raises(FloatingPointError, match="Images: 11;"):
        run_queued(tmp_path, model=TinyModel(poison=(11,)), log_period=100)


def test_a_signal_in_a_queued_step_loses_nothing(tmp_path):
    run_queued(tmp_path / "whole", iterations=8, log_period=100)
    options = {"iterations": 8, "log_period": 100, "period": 100}
    with pytest.raises(Interrupted):
        run_queued(tmp_path / "parts", model=Stopping(call=3), **options)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000003.pth"
    run_queued(tmp_path / "parts", resume=True, **options)
    whole, parts = (state(tmp_path / name)["model"] for name in ("whole", "parts"))
    assert same(whole, parts)


def test_checkpoints_of_other_kinds_of_steps_go_on(tmp_path):
    """A run of before, or of the CPU, goes on with fused steps, and the other way round."""
    plain = lambda model: torch.optim.Adam(model.parameters(), lr=0.05)  # noqa: E731
    fast = lambda model: torch.optim.Adam(model.parameters(), lr=0.05, fused=True)  # noqa: E731
    for name, first, then in (("a", plain, fast), ("b", fast, plain)):
        run_training(tmp_path / name, iterations=3, optimizer=first)
        run_training(tmp_path / name, iterations=6, optimizer=then, resume=True)
        (group,) = state(tmp_path / name)["trainer"]["optimizer"]["param_groups"]
        assert group["fused"] == (True if then is fast else None)


def test_optimizers_on_a_gpu_are_fused_where_they_can_be():
    def made(device, **options):
        with FakeTensorMode(), torch.device(device):
            return build_optimizer(
                Plain(),
                optimizer=partial(options.pop("kind", torch.optim.Adam), **options),
                lr=0.1,
                weight_decay=0.0,
                weight_decay_norm=0.0,
                weight_decay_bias=0.0,
            ).defaults.get("fused")

    assert made("cuda") is True
    assert made("cuda", kind=torch.optim.AdamW) is True
    assert made("cuda", kind=torch.optim.NAdam) is None
    assert made("cuda", foreach=True) is None
    assert made("cpu") is None


def test_the_host_reads_nothing_else_of_a_queued_step(tmp_path):
    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "_unique2"):
                files = [frame.filename for frame in traceback.extract_stack()]
                if not any("dataloader" in file for file in files):  # of the host alone
                    waits.append(files)
            return func(*args, **kwargs or {})

    def counted(trainer):
        with Count():
            real(trainer)

    waits = []
    real = trainer_module.Trainer.run_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "run_step", counted)
        run_queued(tmp_path, clip_norm=0.1, accumulate=2, ema=0.9)
    assert not waits
