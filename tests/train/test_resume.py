"""A run that was stopped and goes on equals one that was not: every weight, every logged loss."""

import json
import os
import shutil
import signal
from functools import partial

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch.optim import lr_scheduler as lr

from panoptic_dl.launch.signals import Interrupted
from tests.train.tiny_run import (
    RECORDS,
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


def of_all(*schedules):
    """A schedule that chains others, as a config makes it."""
    return {"schedulers": [partial(each, **options) for each, options in schedules]}


LINEAR, COSINE = (lr.LinearLR, {"total_iters": 5}), (lr.CosineAnnealingLR, {"T_max": 7})
CHAINED = of_all(LINEAR, (lr.ExponentialLR, {"gamma": 0.9}))
SCHEDULES = {
    lr.LambdaLR: {"lr_lambda": lambda step: 0.9**step},
    lr.MultiplicativeLR: {"lr_lambda": lambda step: 0.9},
    lr.StepLR: {"step_size": 5},
    lr.MultiStepLR: {"milestones": [3, 8]},
    lr.ConstantLR: {},
    lr.LinearLR: {"total_iters": 9},
    lr.ExponentialLR: {"gamma": 0.8},
    lr.PolynomialLR: {"total_iters": 12, "power": 0.9},
    lr.CosineAnnealingLR: {"T_max": 12},
    lr.CosineAnnealingWarmRestarts: {"T_0": 3, "T_mult": 2},
    lr.CyclicLR: {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "mode": "exp_range"},
    lr.OneCycleLR: {"max_lr": 0.1, "total_steps": 12},
    lr.ReduceLROnPlateau: {"mode": "max", "patience": 1, "cooldown": 1},
    lr.SequentialLR: {**of_all((lr.ChainedScheduler, CHAINED), COSINE), "milestones": [5]},
    lr.ChainedScheduler: CHAINED,
    WarmupPolyLR: {"max_iters": 12, "warmup_iters": 3},
}


def test_all_schedules_of_torch_are_tested():
    found = {each for each in vars(lr).values() if isinstance(each, type)}
    assert {each for each in found if issubclass(each, lr.LRScheduler)} == (
        {*SCHEDULES, lr.LRScheduler, lr._LRScheduler} - {WarmupPolyLR}
    )


class Judged(TinyEvaluation):
    """Evaluates iteration by iteration: better, worse, better, worse."""

    FIGURES = (10.0, 20.0, 15.0, 14.0, -1.0, 13.0, 21.0, 20.0, 19.0, 18.0, 17.0, 16.0)

    def __call__(self, model, folder, *, source, limit=None):
        return {"metrics": {"AP": 1.0, "PQ": self.FIGURES[source["iteration"] - 1]}}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_resumes_to_the_last_bit_after_every_step(tmp_path, monkeypatch, schedule):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time
    options = {"iterations": 12, "period": 1, "kept": 12, "best": "PQ"}
    options |= {"schedule": partial(schedule, **SCHEDULES[schedule]), "evaluation": Judged()}
    options |= {"eval_period": int(schedule is lr.ReduceLROnPlateau), "eval_at_end": False}
    run_training(tmp_path / "whole", **options)
    wanted, rates = state(tmp_path / "whole"), [x["lr"] for x in losses(tmp_path / "whole")]
    assert len(set(rates)) > 1
    files = json.loads((tmp_path / "whole" / "checkpoints.json").read_text())["files"]
    for step in range(11):
        parts = tmp_path / str(step)
        parts.mkdir()
        name = f"model_{step:07d}.pth"
        if step % 2 or schedule is not lr.ReduceLROnPlateau:  # else its evaluation was cut short
            (parts / "checkpoints.json").write_text(json.dumps({"files": {name: files[name]}}))
        shutil.copy(tmp_path / "whole" / name, parts)
        run_training(parts, resume=True, **options | {"period": 99})
        assert same(wanted, state(parts)), step
        assert [x["lr"] for x in losses(parts)] == rates[step + 1 :]


OPTIMIZERS = [
    each
    for each in vars(torch.optim).values()
    if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)
]
OTHERS = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}  # steps or weights of another kind


@pytest.mark.parametrize("kind", [each for each in OPTIMIZERS if each.__name__ not in OTHERS])
def test_every_optimizer_resumes_to_the_last_bit(tmp_path, kind):
    options = {"iterations": 6, "optimizer": optimizer(kind)}
    run_training(tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        run_training(tmp_path / "parts", model=Stopping(3), **options)
    run_training(tmp_path / "parts", resume=True, **options)
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))


@pytest.mark.parametrize("schedule", [lr.StepLR, lr.SequentialLR, lr.OneCycleLR])
def test_a_schedule_that_was_changed_is_where_it_would_be_from_the_beginning(tmp_path, schedule):
    """With an option of the optimizer that was changed, too."""
    changed = partial(schedule, **SCHEDULES[schedule])
    options = {"iterations": 12, "eval_at_end": False}
    run_training(tmp_path / "whole", schedule=changed, **options)
    run_training(tmp_path / "parts", **options | {"iterations": 5})
    sgd = optimizer(torch.optim.Adam, weight_decay=0.1)
    run_training(tmp_path / "parts", schedule=changed, optimizer=sgd, resume=True, **options)
    whole, parts = ([x["lr"] for x in losses(tmp_path / name)][5:] for name in ("whole", "parts"))
    assert whole == parts
    (group,) = state(tmp_path / "parts")["trainer"]["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.1


def test_a_plateau_that_was_changed_has_seen_the_metrics_from_the_beginning(tmp_path):
    options = {"evaluation": Judged(), "eval_period": 1, "best": "PQ", "eval_at_end": False}
    patient, hasty = (partial(lr.ReduceLROnPlateau, mode="max", patience=n) for n in (9, 0))
    run_training(tmp_path / "whole", iterations=8, schedule=hasty, **options)
    run_training(tmp_path / "parts", iterations=4, schedule=patient, **options)
    run_training(tmp_path / "parts", iterations=8, schedule=hasty, resume=True, **options)
    whole, parts = ([x["lr"] for x in losses(tmp_path / name)][4:] for name in ("whole", "parts"))
    assert whole == parts


def test_other_images_of_the_same_number_are_refused(tmp_path, caplog):
    run_training(tmp_path, iterations=2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    records = [record | {"file_name": f"other{record['file_name']}"} for record in RECORDS]
    longer = {"iterations": 4, "resume": True}
    with pytest.raises(ValueError, match=r"others \(names, sizes, segments\).*resume_changed=true"):
        run_training(tmp_path, loader=tiny_loader(records=records), **longer)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    moved = [record | {"file_name": f"/moved/{record['file_name']}"} for record in RECORDS]
    run_training(tmp_path, loader=tiny_loader(records=moved), **longer)
    assert "as many images" not in caplog.text
    longer["iterations"] = 6
    run_training(tmp_path, loader=tiny_loader(records=records), resume_changed=True, **longer)
    assert "as many images" in caplog.text


def test_a_checkpoint_of_an_earlier_version_knows_the_number_of_images_alone():
    loader = tiny_loader()
    old = loader.state_dict()
    del old["records"]
    loader.load_state_dict(old)
    assert not loader.other_records
    loader.load_state_dict(old | {"records": "another"})
    assert loader.other_records


def test_a_resume_that_is_refused_changes_nothing(tmp_path):
    run_training(tmp_path, iterations=4)
    (tmp_path / "model_0000007.pth").write_bytes(b"torn")
    (tmp_path / ".unfinished.7.model_0000009.pth").write_bytes(b"killed")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for changes in ({"resume": False}, {"iterations": 2}, {"loader": tiny_loader(seed=2)}):
        with pytest.raises(ValueError, match=r"resume|seed"):
            run_training(tmp_path, **{"resume": True, "iterations": 6} | changes)
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
