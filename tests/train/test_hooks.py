"""Hooks of a run: lines of metrics.json, the schedule, evaluations, the best checkpoint."""

import os
import re
import time

import pytest
import torch

from panoptic_dl.train.hooks import MetricsWriter
from tests.train.tiny_run import (
    Dying,
    Killed,
    TinyEvaluation,
    TinyModel,
    metrics,
    refuse_writing,
    run_training,
    state,
)


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
    assert 8 / last["images_per_s"] >= 0.3 / 3  # a busy machine may take longer


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


def test_best_keeps_the_checkpoint_with_the_best_figure(tmp_path):
    figures = TinyEvaluation(10.0, float("nan"), 30.0, 20.0)
    run_training(tmp_path, iterations=8, evaluation=figures, eval_period=2, kept=1)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["iteration"] == 5
    kept = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert kept == ["model_0000007.pth", "model_best.pth", "model_final.pth"]


@pytest.mark.parametrize(("images", "best"), [(1, 3), (2, 5)])
def test_the_best_is_that_of_one_validation_set(tmp_path, caplog, images, best):
    """The figures fall, which on other images says nothing."""
    run_training(tmp_path, iterations=4, evaluation=TinyEvaluation(60.0))
    other = TinyEvaluation(50.0, num_images=images)
    run_training(tmp_path, iterations=6, evaluation=other, resume=True)
    assert state(tmp_path, "model_best.pth")["iteration"] == best
    assert ("chosen on other validation images (1)" in caplog.text) == (best == 5)


@pytest.mark.parametrize("has_bar", [False, True])
def test_the_console_shows_losses_rates_and_the_best(tmp_path, monkeypatch, caplog, has_bar):
    """Below a bar on a terminal, whose lines the log alone has; else as lines."""
    drawn = []
    monkeypatch.setattr("panoptic_dl.train.hooks.shows_bars", lambda: has_bar)
    monkeypatch.setattr("panoptic_dl.core.parallel.shows_bars", lambda: has_bar)
    monkeypatch.setattr("panoptic_dl.core.parallel.SECONDS_OF_A_BAR", 0)
    monkeypatch.setattr(
        "panoptic_dl.core.parallel.Progress._draw", lambda self: drawn.append(self.note)
    )
    caplog.set_level("INFO", logger="panoptic_dl")
    run_training(tmp_path, iterations=8, eval_period=2, evaluation=TinyEvaluation(60.0, 62.0, 61.0))
    lines = [record for record in caplog.records if record.getMessage().startswith("iteration ")]
    texts = [record.getMessage() for record in lines]
    parts = r"fit \S+  extra \S+  lr \S+( .* images/s)?  data \S+ s  memory \d+ MiB"
    pattern = rf"iteration \d/8  total_loss \S+  {parts}(  best PQ \d+ \(iteration \d\))?  ETA \S+"
    assert all(re.fullmatch(pattern, text) for text in texts), texts
    assert len(texts) == 8
    assert "best PQ 60 (iteration 2)" in texts[2]
    assert "best PQ 62 (iteration 4)" in texts[7]
    assert [record.is_drawn for record in lines] == [has_bar] * 8
    assert bool(drawn) == has_bar
    if has_bar:
        assert drawn[5] in texts[4]
    (last,) = [r for r in caplog.records if r.getMessage().startswith("training: 100%")] or [None]
    assert (last is not None) == has_bar


def full_metrics(monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("panoptic_dl.train.hooks.os.fsync", full)


def test_figures_that_cannot_be_written_stop_the_run_or_do_not(tmp_path, monkeypatch, caplog):
    real = os.fsync
    full_metrics(monkeypatch)
    with pytest.raises(OSError, match=r"cannot write the metrics to .*metrics.json.*resume=true"):
        run_training(tmp_path / "stop")
    monkeypatch.setattr("panoptic_dl.train.hooks.os.fsync", real)
    with monkeypatch.context() as patch:
        refuse_writing(patch, "metrics.json")
        run_training(tmp_path / "on", on_error="continue")
    assert "cannot write the metrics to" in caplog.text
    assert state(tmp_path / "on")["iteration"] == 5


def test_results_that_cannot_be_written_do_not_stop_training_when_told_so(tmp_path):
    class Full(TinyEvaluation):
        def __call__(self, *arguments, **options):
            super().__call__(*arguments, **options)
            raise OSError(28, "No space left on device")

    evaluation = Full()
    run_training(tmp_path, evaluation=evaluation, eval_period=2, on_error="continue")
    assert evaluation.calls == 3
    with pytest.raises(OSError, match="No space"):
        run_training(tmp_path / "stop", evaluation=evaluation, eval_period=2)


def test_an_error_in_a_step_writes_no_line_of_the_step_before_again(tmp_path):
    with pytest.raises(Killed):
        run_training(tmp_path, model=Dying(4), log_period=1)
    assert [line["iteration"] for line in metrics(tmp_path)] == [0, 1, 2, 3]
