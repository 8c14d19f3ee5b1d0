"""mode=train on a tiny model: figures, files, precision, accumulation, refusals."""

import json
import time
from functools import partial

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from panoptic_dl.train.hooks import MetricsWriter

from .tiny import TinyEvaluation, TinyModel, run_training, tiny_loader

UNGROUPED = {"aspect_ratio_grouping": False}


def metrics(run_dir):
    """The lines of the iterations; evaluations have lines of their own."""
    lines = [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def final(run_dir):
    return torch.load(run_dir / "model_final.pth", weights_only=True)


def test_a_run_leaves_losses_checkpoints_and_results(tmp_path):
    evaluation = TinyEvaluation()
    loggers = {"tensorboard": TensorBoardLogger()}
    results = run_training(tmp_path, evaluation=evaluation, loggers=loggers)
    assert results["metrics"] == {"PQ": 50.0}
    assert evaluation.calls == 1
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == list(range(6))
    assert all({"total_loss", "loss_fit", "lr", "data_time", "time"} <= set(x) for x in lines[2:])
    assert list(tmp_path.glob("events.out.tfevents*"))
    kept = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert kept == [
        *("model_0000003.pth", "model_0000005.pth", "model_best.pth", "model_final.pth")
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"


def test_lines_have_speed_and_memory(tmp_path):
    run_training(tmp_path)
    lines = metrics(tmp_path)
    timed = [line for line in lines if "time" in line]
    assert len(timed) >= 3
    assert [x["images_per_s"] for x in timed] == pytest.approx([8 / x["time"] for x in timed])
    assert all(50 < line["host_memory_MiB"] < 100_000 for line in lines)
    assert not any("device_memory_MiB" in line for line in lines)  # of GPUs


def test_a_gpu_has_its_peak_in_the_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**20)
    monkeypatch.setattr("panoptic_dl.train.train.MetricsWriter", OfGpu)
    run_training(tmp_path, iterations=2)
    assert [line["device_memory_MiB"] for line in metrics(tmp_path)] == [5.0, 5.0]


class OfGpu(MetricsWriter):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"device": torch.device("cuda")})


def test_speed_is_that_of_all_steps_since_the_line_before(tmp_path):
    run_training(tmp_path, iterations=9, model=Slow(8), log_period=3)
    last = metrics(tmp_path)[-1]
    assert 8 / last["images_per_s"] == pytest.approx(0.3 / 3, abs=0.05)
    assert last["time"] < 0.1


class Slow(TinyModel):
    """One of its calls takes 0.3 s."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, batch):
        result = super().forward(batch)
        time.sleep(0.3 * (self.calls == self.call))
        return result


def test_the_learning_rate_warms_up_and_decays_every_iteration(tmp_path):
    run_training(tmp_path)
    warmup = [0.001, 0.5005, 1, 1, 1, 1]
    wanted = [0.05 * w * (1 - i / 6) ** 0.9 for i, w in enumerate(warmup)]
    assert [line["lr"] for line in metrics(tmp_path)] == pytest.approx(wanted)


def test_a_schedule_that_ends_before_training_is_refused(tmp_path):
    short = partial(WarmupPolyLR, max_iters=5, warmup_iters=2)
    with pytest.raises(ValueError, match=r"max_iters=5 is shorter than train\.iterations=6"):
        run_training(tmp_path, schedule=short)
    run_training(tmp_path / "longer", schedule=partial(WarmupPolyLR, max_iters=9, warmup_iters=2))


def test_evaluation_during_training(tmp_path):
    evaluation = TinyEvaluation()
    run_training(tmp_path, evaluation=evaluation, eval_period=2)
    assert evaluation.calls == 3
    text = (tmp_path / "metrics.json").read_text()
    assert text.count('"PQ": 50.0') == 3


def test_evaluation_at_the_end_can_be_left_out(tmp_path):
    evaluation = TinyEvaluation()
    assert run_training(tmp_path, evaluation=evaluation, eval_at_end=False) == {}
    assert evaluation.calls == 0


def test_a_resumed_run_can_be_longer_and_follows_the_longer_schedule(tmp_path):
    run_training(tmp_path, iterations=4)
    run_training(tmp_path, iterations=8, resume=True)
    rates = [0.05 * (1 - i / 8) ** 0.9 for i in range(4, 8)]
    assert [line["lr"] for line in metrics(tmp_path)][4:] == pytest.approx(rates)


def test_a_run_is_not_overwritten(tmp_path):
    run_training(tmp_path)
    with pytest.raises(ValueError, match="resume=true"):
        run_training(tmp_path)


def test_resuming_nothing_is_an_error_and_auto_starts(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        run_training(tmp_path, resume=True)
    run_training(tmp_path, resume="auto")
    evaluation = TinyEvaluation()
    run_training(tmp_path, resume="auto", evaluation=evaluation)  # done already: evaluates again
    assert evaluation.calls == 1
    with pytest.raises(ValueError, match="resume=maybe"):
        run_training(tmp_path, resume="maybe")


def test_weights_start_a_run(tmp_path):
    run_training(tmp_path / "first")
    model = TinyModel()
    with torch.no_grad():
        model.head.weight.zero_()
    run_training(
        tmp_path / "second",
        model=model,
        weights=str(tmp_path / "first" / "model_final.pth"),
        iterations=1,
    )
    first = metrics(tmp_path / "first")[0]["total_loss"]
    assert metrics(tmp_path / "second")[0]["total_loss"] < first


def test_bf16_trains_on_the_cpu(tmp_path):
    run_training(tmp_path / "full", iterations=80)
    run_training(tmp_path / "half", iterations=80, precision="bf16")
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
    weights = final(tmp_path / "whole")["model"], final(tmp_path / "parts")["model"]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


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
        after = final(tmp_path / str(clip))["model"]
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


def test_best_keeps_the_checkpoint_with_the_best_figure(tmp_path):
    figures = TinyEvaluation(10.0, float("nan"), 30.0, 20.0)
    run_training(tmp_path, iterations=8, evaluation=figures, eval_period=2, kept=1)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["iteration"] == 5
    kept = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert kept == ["model_0000007.pth", "model_best.pth", "model_final.pth"]


def test_a_best_figure_without_a_meaning_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint.best=pq is no metric; choose one of PQ"):
        run_training(tmp_path, best="pq")
    assert not list(tmp_path.glob("*.pth"))


def test_a_best_figure_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.best=AP is no metric.*PQ"):
        run_training(tmp_path, best="AP")


def test_a_schedule_that_waits_for_a_metric_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ReduceLROnPlateau waits for a metric"):
        run_training(tmp_path, schedule=torch.optim.lr_scheduler.ReduceLROnPlateau)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "train.precision=fp8"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"iterations": 0}, "train.iterations=0"),
        ({"log_period": 0}, "train.log_period=0"),
        ({"iterations": 10.0}, "whole number"),
        ({"precision": "tf32"}, "needs a GPU"),
        ({"clip_norm": 0.0}, "train.clip_norm=0.0"),
        ({"on_nonfinite": "ignore"}, "train.on_nonfinite=ignore"),
        ({"max_nonfinite_skips": -1}, "train.max_nonfinite_skips=-1"),
        ({"on_error": "ignore"}, "checkpoint.on_error=ignore"),
        ({"kept": 0}, "checkpoint.kept=0"),
        ({"accumulate": 3}, "choose 1, 2, 4 or 8"),
        ({"overfit_batches": -1}, "train.overfit_batches=-1"),
    ],
)
def test_impossible_settings_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, **change)
