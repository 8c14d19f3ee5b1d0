"""mode=train on a tiny model: figures, checkpoints, resuming, interruption, refusals."""

import json
import os
import signal

import pytest
import torch

from panoptic_dl.engine.interrupt import Interrupted

from .tiny import TinyEvaluation, TinyModel, run_training


def metrics(run_dir):
    """The lines of the iterations; evaluations have lines of their own."""
    lines = [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def final(run_dir):
    return torch.load(run_dir / "model_final.pth", weights_only=True)


def test_a_run_leaves_losses_checkpoints_and_results(tmp_path):
    evaluation = TinyEvaluation()
    results = run_training(tmp_path, evaluation=evaluation)
    assert results["metrics"] == {"PQ": 50.0}
    assert evaluation.calls == 1
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == list(range(6))
    assert all({"total_loss", "loss_fit", "lr", "data_time", "time"} <= set(x) for x in lines[2:])
    assert list(tmp_path.glob("events.out.tfevents*"))
    kept = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert kept == ["model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


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


def test_an_interrupted_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    class Repeatable(TinyModel):
        """Stops itself during the fourth iteration."""

        def forward(self, batch):
            losses = super().forward(batch)
            if self.calls == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return losses

    class Constant:
        def __iter__(self):
            generator = torch.Generator().manual_seed(1)
            batch = torch.randn(8, 4, generator=generator)
            while True:
                yield batch

    run_training(tmp_path / "whole", loader=Constant())
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        run_training(tmp_path / "halves", model=Repeatable(), loader=Constant())
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "halves" / "last_checkpoint").read_text() == "model_0000003.pth"
    run_training(tmp_path / "halves", loader=Constant(), resume=True)
    whole, halves = final(tmp_path / "whole"), final(tmp_path / "halves")
    assert all(torch.equal(v, halves["model"][k]) for k, v in whole["model"].items())
    losses = [[x["total_loss"] for x in metrics(tmp_path / d)] for d in ("whole", "halves")]
    assert losses[0] == losses[1]
    assert [line["lr"] for line in metrics(tmp_path / "halves")] == [
        line["lr"] for line in metrics(tmp_path / "whole")
    ]


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


def test_resuming_another_model_is_an_error(tmp_path):
    run_training(tmp_path)
    other = TinyModel()
    other.head = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match="another model"):
        run_training(tmp_path, model=other, resume=True)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    model = TinyModel()
    model.fail_at = 4
    with pytest.raises(FloatingPointError, match="iteration=3"):
        run_training(tmp_path, model=model)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert all(torch.isfinite(p).all() for p in model.parameters())


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
    run_training(tmp_path / "full", iterations=40)
    run_training(tmp_path / "half", iterations=40, precision="bf16")
    full, half = ([x["total_loss"] for x in metrics(tmp_path / d)] for d in ("full", "half"))
    assert sum(full[-5:]) < 0.2 * sum(full[:5])
    assert half != full
    assert half == pytest.approx(full, rel=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "train.precision=fp8"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"iterations": 0}, "train.iterations=0"),
        ({"log_period": 0}, "train.log_period=0"),
        ({"iterations": 10.0}, "whole number"),
    ],
)
def test_impossible_settings_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, **change)


def test_a_torn_write_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full_disk(state, file):
        calls.append(1)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_training(tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert sorted(p.name for p in tmp_path.glob("*.p*")) == ["model_0000001.pth"]
    monkeypatch.setattr(torch, "save", real)
    run_training(tmp_path, resume=True)
    assert final(tmp_path)["iteration"] == 5
