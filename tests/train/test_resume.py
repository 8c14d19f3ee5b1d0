"""A run that was stopped and goes on equals one that was not: every weight, every logged loss."""

import json
import os
import signal

import pytest
import torch

from panoptic_dl.launch.signals import Interrupted
from tests.train.tiny_run import (
    Dying,
    Killed,
    Stopping,
    TinyEvaluation,
    TinyModel,
    losses,
    run_training,
    same,
    state,
    tiny_loader,
)

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("number", "num_workers"),
    [
        *((signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGUSR2, 0)),
        *((signal.SIGINT, 2), (signal.SIGUSR1, 2)),
    ],
)
def test_stopped_by_a_signal(tmp_path, number, num_workers):
    options = {"num_workers": num_workers, "iterations": 9}
    run_training(tmp_path / "whole", **options)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted) as stop:
        run_training(tmp_path / "parts", model=Stopping(4, number), **options)
    assert stop.value.signal == number
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == (
        handlers
    )
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000003.pth"
    with pytest.raises(Interrupted):
        run_training(tmp_path / "parts", model=Stopping(3, number), resume=True, **options)
    run_training(tmp_path / "parts", resume="auto", **options)
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert [line["iteration"] for line in losses(tmp_path / "whole")] == list(range(9))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_killed_between_checkpoints(tmp_path, accumulate, grouping):
    """Lines of iterations that are trained again are not there twice."""

    def loader():
        return tiny_loader(accumulate=accumulate, aspect_ratio_grouping=grouping)

    run_training(tmp_path / "whole", iterations=9, loader=loader())
    with pytest.raises(Killed):
        run_training(tmp_path / "parts", iterations=9, loader=loader(), model=Dying(7 * accumulate))
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000005.pth"
    run_training(tmp_path / "parts", iterations=9, loader=loader(), resume=True)
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_torn_line_of_metrics_is_dropped(tmp_path):
    run_training(tmp_path, iterations=4)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 4, "total_lo')
    run_training(tmp_path, iterations=6, resume=True)
    assert [line["iteration"] for line in losses(tmp_path)] == list(range(6))


def test_what_else_draws_random_numbers_does_not_matter(tmp_path):
    class Drawing(TinyModel):
        def forward(self, batch):
            result = super().forward(batch)
            torch.rand(self.calls)
            return result

    run_training(tmp_path / "one")
    run_training(tmp_path / "two", model=Drawing())
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))


def test_a_random_seed_is_kept(tmp_path):
    run_training(tmp_path / "parts", iterations=2, loader=tiny_loader(seed=None))
    seed = state(tmp_path / "parts")["trainer"]["loader"]["seed"]
    run_training(tmp_path / "parts", loader=tiny_loader(seed=None), resume=True)
    assert state(tmp_path / "parts")["trainer"]["loader"]["seed"] == seed
    run_training(tmp_path / "whole", loader=tiny_loader(seed=seed))
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert [x["loss_fit"] for x in whole[:1]] == [x["loss_fit"] for x in parts[:1]]


def test_another_seed_or_dataset_is_refused(tmp_path):
    run_training(tmp_path, iterations=2)
    with pytest.raises(ValueError, match="seed=7, but the run was started with seed=1"):
        run_training(tmp_path, loader=tiny_loader(seed=7), resume=True)


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path):
    class CutShort(TinyEvaluation):
        def __call__(self, *arguments, **options):
            if self.calls == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(*arguments, **options)

    first, second, third = CutShort(10.0, 20.0), TinyEvaluation(30.0), TinyEvaluation()
    options = {"eval_period": 3, "iterations": 9, "period": 100, "kept": 9}
    with pytest.raises(Interrupted):
        run_training(tmp_path, evaluation=first, **options)
    assert first.calls == 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    with pytest.raises(Interrupted):
        run_training(tmp_path, evaluation=second, model=Stopping(1), resume=True, **options)
    assert second.calls == 1
    run_training(tmp_path, evaluation=third, resume=True, **options)
    assert third.calls == 1  # the last one
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {x["iteration"]: x["PQ"] for x in lines if "PQ" in x} == {2: 10, 5: 30, 8: 50}


def test_a_signal_before_training_leaves_no_run(tmp_path, monkeypatch):
    from panoptic_dl.train import train as module

    monkeypatch.setattr(module, "_start", lambda *arguments: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(Interrupted):
        run_training(tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    class Twice(Stopping):
        def forward(self, batch):
            result = super().forward(batch)
            if self.calls == self.call:
                os.kill(os.getpid(), signal.SIGINT)
            return result

    with pytest.raises(KeyboardInterrupt) as stop:
        run_training(tmp_path, model=Twice(4))
    assert not isinstance(stop.value, Interrupted)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_fewer_iterations_than_are_done_are_refused(tmp_path):
    run_training(tmp_path, iterations=4)
    with pytest.raises(ValueError, match=r"train.iterations=2, but .* has 4 behind it"):
        run_training(tmp_path, iterations=2, resume=True)


def optimizer(kind, **options):
    return lambda model: kind(model.parameters(), lr=0.05, **options)


def test_the_options_of_the_optimizer_are_those_of_the_config(tmp_path):
    run_training(tmp_path, iterations=2, optimizer=optimizer(torch.optim.AdamW, weight_decay=0.1))
    changed = optimizer(torch.optim.AdamW, weight_decay=0.3)
    run_training(tmp_path, iterations=4, optimizer=changed, resume=True)
    (group,) = state(tmp_path)["trainer"]["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.3
    with pytest.raises(ValueError, match="optimizer of another kind"):
        run_training(tmp_path, optimizer=optimizer(torch.optim.SGD, momentum=0.9), resume=True)


@pytest.fixture
def fp16_on_the_cpu(monkeypatch):
    """Its gradient scaler works there as well; only slowly."""
    monkeypatch.setattr("panoptic_dl.train.train.check_precision", lambda *a: None)


def test_the_gradient_scaler_is_resumed(tmp_path, fp16_on_the_cpu):
    options = {"precision": "fp16", "iterations": 9}
    run_training(tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        run_training(tmp_path / "parts", model=Stopping(4), **options)
    run_training(tmp_path / "parts", resume=True, **options)
    whole = state(tmp_path / "whole")
    assert whole["trainer"]["grad_scaler"]["_growth_tracker"] > 3
    assert same(whole, state(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_fp16_gradients_may_not_overflow_for_ever(tmp_path, fp16_on_the_cpu):
    class Steep(TinyModel):
        """A finite loss whose gradient never is."""

        def forward(self, batch):
            losses = super().forward(batch)
            return losses | {"loss_root": (self.head.weight * 0).square().sum().sqrt()}

    with pytest.raises(FloatingPointError, match="iteration=40"):
        run_training(tmp_path, model=Steep(), precision="fp16", iterations=60, ema=0.9)
    assert (tmp_path / "nonfinite.jsonl").is_file()
