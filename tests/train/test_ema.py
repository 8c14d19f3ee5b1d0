"""The moving average of the weights: its arithmetic, and a run that keeps and evaluates it."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.train.ema import UpdateAverage, WeightAverage
from panoptic_dl.weights.load import load_model
from tests.train.tiny_run import TinyModel, metrics, run_training, state


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def step(model, seed):
    """Change all parameters and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)


def test_the_average_is_that_of_the_formula():
    model = TinyModel()
    average = WeightAverage(model, decay=0.3)
    wanted = copied(model)
    for number in range(5):
        step(model, number)
        average.update()
        decay = min(0.3, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                wanted[name] = decay * wanted[name] + (1 - decay) * value
            else:
                wanted[name] = value.clone()
    found = average.weights()
    assert list(found) == list(model.state_dict())
    assert int(found["backbone.1.num_batches_tracked"]) == 5
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-6)
    assert not torch.equal(found["backbone.1.running_mean"], model.backbone[1].running_mean)


def test_the_weights_come_back_bit_for_bit_also_after_an_error():
    model = TinyModel()
    average = WeightAverage(model, decay=0.9)
    step(model, 1)
    average.update()
    raw, mean = copied(model), {name: value.clone() for name, value in average.weights().items()}
    parameters = list(model.parameters())
    with pytest.raises(KeyError), average.applied():  # noqa: PT012
        assert same(copied(model), mean)
        raise KeyError
    assert same(copied(model), raw)
    assert same(average.weights(), mean)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    average.update()  # goes on as if nothing had been


def test_a_shared_weight_is_swapped_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    average = WeightAverage(model, decay=0.5)
    step(model, 1)
    average.update()
    raw = copied(model)
    with average.applied():
        assert not same(copied(model), raw)
    assert same(copied(model), raw)
    assert list(average.weights()) == ["0.weight", "1.weight"]


def test_skipped_steps_do_not_count():
    model = TinyModel()
    average = WeightAverage(model, decay=0.9)
    hook = UpdateAverage(average)
    for skipped in (False, True, False):
        hook.trainer = SimpleNamespace(skipped=skipped)
        hook.after_step()
    assert average.num_updates == 2


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, "often"])
def test_impossible_decays_are_named(tmp_path, decay):
    with pytest.raises(ValueError, match=rf"train.ema={decay}"):
        run_training(tmp_path, ema=decay)


def test_a_state_of_another_model_is_refused():
    state = WeightAverage(TinyModel(), 0.9).state_dict()
    with pytest.raises(ValueError, match="another model"):
        WeightAverage(nn.Linear(4, 8), 0.9).load_state_dict(state)


class Watching:
    """An evaluation that notes the weights it is shown, as a figure that depends on them."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, folder, *, source):
        self.seen.append((copied(model), folder, source))
        return {"metrics": {"PQ": float(model.head.weight.sum())}, "num_images": 1}


def test_a_run_evaluates_both_and_saves_both(tmp_path, caplog):
    evaluation = Watching()
    with caplog.at_level(logging.INFO):
        results = run_training(tmp_path, evaluation=evaluation, ema=0.5)
    (raw, folder, _), (mean, beside, source) = evaluation.seen
    assert (folder, beside) == (tmp_path, tmp_path / "ema")
    assert source["weights"] == "moving average"
    saved = state(tmp_path)
    assert same(saved["model"], raw)
    assert same(saved["ema"]["model"], mean)
    assert saved["ema"]["num_updates"] == 6
    assert results["metrics"].keys() == {"PQ", "ema/PQ"}
    assert results["metrics"]["ema/PQ"] == results["ema"]["metrics"]["PQ"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines[-1]["ema/PQ"] == pytest.approx(results["metrics"]["ema/PQ"])
    assert "| moving average |" in caplog.text
    model = TinyModel()
    load_model(model, tmp_path / "model_ema.pth")
    assert same(copied(model), mean)


def test_training_is_the_same_with_and_without(tmp_path):
    run_training(tmp_path / "with", ema=0.9, eval_period=2)
    run_training(tmp_path / "without", eval_period=2)
    assert same(state(tmp_path / "with")["model"], state(tmp_path / "without")["model"])


def test_a_resumed_run_ends_with_the_same_average(tmp_path):
    run_training(tmp_path / "whole", ema=0.9)
    with pytest.raises(Interrupted):
        run_training(tmp_path / "halves", ema=0.9, model=Stopping())
    run_training(tmp_path / "halves", ema=0.9, resume=True)
    whole, halves = (state(tmp_path / name)["ema"] for name in ("whole", "halves"))
    assert same(whole["model"], halves["model"])
    assert whole["num_updates"] == halves["num_updates"] == 6
    assert len(metrics(tmp_path / "halves")) == 6


def test_the_average_starts_from_loaded_weights(tmp_path):
    run_training(tmp_path / "first")
    evaluation = Watching()
    weights = str(tmp_path / "first" / "model_final.pth")
    far = TinyModel()
    with torch.no_grad():
        far.head.weight.fill_(1e6)
    run_training(tmp_path, model=far, weights=weights, ema=0.9, iterations=1, evaluation=evaluation)
    mean = evaluation.seen[1][0]
    assert mean["head.weight"].abs().max() < 100


@pytest.mark.parametrize(("first", "then"), [(0.9, None), (None, 0.9)])
def test_resuming_with_another_choice_is_an_error(tmp_path, first, then):
    run_training(tmp_path, ema=first)
    with pytest.raises(ValueError, match=r"train\.ema is (set|null)"):
        run_training(tmp_path, ema=then, resume=True)


class Stopping(TinyModel):
    """Interrupts itself in the fourth iteration."""

    def forward(self, batch):
        import os
        import signal

        losses = super().forward(batch)
        if self.calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return losses
