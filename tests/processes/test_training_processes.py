"""What two processes must agree on: when to stop, what to leave out, where to go on."""

import json
import os
import signal
import time
from functools import partial
from unittest import mock

import pytest
import torch
from detectron2.utils import comm

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.launch.launcher import launch
from panoptic_dl.launch.signals import Interrupted
from tests.train.tiny_run import (
    SCHEDULE,
    Partly,
    TinyEvaluation,
    TinyModel,
    losses,
    run_training,
    same,
    state,
    tiny_loader,
    tiny_sample,
)

from .wandb_runs import one, wandb_logger


class Stopping(TinyModel):
    """Process 1 alone is sent a signal in its fourth forward pass."""

    def forward(self, batch):
        result = super().forward(batch)
        if self.calls == 4 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return result


class Drawing(TinyModel):
    """Notes a random number of each step."""

    def __init__(self, drawn):
        super().__init__()
        self.drawn = drawn

    def forward(self, batch):
        self.drawn.append(float(torch.rand(1)))
        return super().forward(batch)


def sample_without(*image_ids_then_record):
    *image_ids, record = image_ids_then_record
    if record["image_id"] in image_ids:
        raise DatasetError(f"cannot read {record['file_name']} (missing)")
    return tiny_sample(record)


def attempt(folder, name, **options):
    """Train; write what this process saw."""
    try:
        run_training(folder / name, **options)
        outcome = "finished"
    except (Interrupted, FloatingPointError, ValueError) as error:
        outcome = f"{type(error).__name__}: {error}"
    (folder / f"{name}.{comm.get_rank()}.txt").write_text(outcome)


def stop_while_saving_is_slow(folder):
    """No process may end before the main one has saved: the launcher would end that, too."""
    real = torch.save

    def slow(state, file):
        time.sleep(1)
        real(state, file)

    with mock.patch.object(torch, "save", slow):
        attempt(folder, "parts", model=Stopping(), period=100)
    there = (folder / "parts" / "model_0000003.pth").is_file()
    (folder / f"saved.{comm.get_rank()}.txt").write_text(str(there))


class Noting(TinyEvaluation):
    """Notes the running statistics that this process evaluates with."""

    def __init__(self, folder):
        super().__init__()
        self.file = folder / f"noted.{comm.get_rank()}.txt"

    def __call__(self, model, folder, **options):
        with self.file.open("a") as file:
            file.write(f"{model.backbone[1].running_mean.tolist()}\n")
        return super().__call__(model, folder, **options)


def scenarios(device, folder):
    """All in one pair of processes, for each pair takes seconds to start."""
    attempt(folder, "whole")
    draws = []
    attempt(folder, "draws", model=Drawing(draws), iterations=2)
    (folder / f"drawn.{comm.get_rank()}.txt").write_text(repr(draws))
    attempt(folder, "accumulated", accumulate=2)
    stop_while_saving_is_slow(folder)
    attempt(folder, "parts", num_workers=2, resume="auto")
    attempt(folder, "nan_stop", model=TinyModel(poison=(7,)))
    attempt(
        folder, "nan_skip", model=TinyModel(poison=(7,)), on_nonfinite="skip", max_nonfinite_skips=9
    )
    attempt(folder, "nan_many", model=TinyModel(poison=range(20)), on_nonfinite="skip")
    loader = tiny_loader(mapper=partial(sample_without, 3), max_bad_samples=1)
    attempt(folder, "bad", loader=loader, iterations=9)
    loader = tiny_loader(mapper=partial(sample_without, 3, 4), max_bad_samples=1)
    attempt(folder, "too_bad", loader=loader, iterations=9)
    attempt(folder, "evaluated", evaluation=TinyEvaluation(1.0, 3.0, 2.0), eval_period=2)
    attempt(folder, "logged", loggers={"wandb": wandb_logger(mode="offline")})
    attempt(folder, "unused", model=Partly())
    attempt(folder, "unused_later", model=Partly((1, 3)))
    attempt(folder, "unused_in_one", model=Partly((1, 2) if comm.get_rank() else ()))
    allowed = Partly((1, 3) if comm.get_rank() else (3, 4))
    attempt(folder, "allowed", model=allowed, find_unused_parameters=True)
    attempt(folder, "statistics", evaluation=Noting(folder), eval_period=2, ema=0.9)
    attempt(folder, "torn", iterations=4, schedule=SCHEDULE)
    if comm.is_main_process():
        newest = folder / "torn" / "model_0000003.pth"
        newest.write_bytes(newest.read_bytes()[:1000])
        (folder / "torn" / "model_final.pth").unlink()
        (folder / "torn" / "model_best.pth").unlink()
    comm.synchronize()
    attempt(folder, "torn", resume=True, schedule=SCHEDULE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch(scenarios, folder, num_gpus=0, num_cpu_processes=2)
    return folder


def said(folder, name):
    """What both processes saw, which must be the same."""
    one, two = ((folder / f"{name}.{rank}.txt").read_text() for rank in range(2))
    assert one == two
    return one


def test_a_signal_to_one_stops_both_and_the_resumed_run_equals_the_whole(folder):
    assert said(folder, "whole") == said(folder, "parts") == "finished"
    assert said(folder, "saved") == "True"
    assert (
        "model_0000003.pth" in json.loads((folder / "parts/checkpoints.json").read_text())["files"]
    )
    assert same(state(folder / "whole"), state(folder / "parts"))
    assert losses(folder / "whole") == losses(folder / "parts")


def test_each_process_and_step_draws_its_own_random_numbers(folder):
    drawn = [(folder / f"drawn.{rank}.txt").read_text() for rank in range(2)]
    numbers = [number for text in drawn for number in json.loads(text)]
    assert len(set(numbers)) == 4


def test_the_images_of_a_step_do_not_depend_on_the_sharing(folder, tmp_path):
    """Two processes with two passes, one with four: the same images; BatchNorm's batches too."""
    run_training(tmp_path, accumulate=4)
    two, one = losses(folder / "accumulated"), losses(tmp_path)
    assert one[0]["total_loss"] == pytest.approx(two[0]["total_loss"], rel=0.3)
    ours = state(tmp_path)["trainer"]["loader"]
    assert ours == state(folder / "accumulated")["trainer"]["loader"]


def test_another_number_of_processes_goes_on_from_the_position(folder):
    run_training(folder / "accumulated", iterations=9, resume=True)
    assert state(folder / "accumulated")["trainer"]["loader"]["steps"] == 9


def test_not_a_number_in_one_is_noticed_by_both(folder):
    text = said(folder, "nan_stop")
    assert text.startswith("FloatingPointError")
    assert "Images: 7;" in text
    (line,) = map(json.loads, (folder / "nan_stop/nonfinite.jsonl").read_text().splitlines())
    assert [image["image_id"] for image in line["images"]] == [7]
    assert line["process"] in (0, 1)
    for file in (folder / "nan_stop").glob("*.pth"):
        weights = state(folder / "nan_stop", file.name)["model"]
        assert all(value.isfinite().all() for value in weights.values())


def test_steps_that_are_not_finite_are_left_out(folder):
    assert said(folder, "nan_skip") == "finished"
    lines = (folder / "nan_skip/nonfinite.jsonl").read_text().splitlines()
    final = state(folder / "nan_skip")
    assert final["trainer"]["skips"] == len(lines) > 0
    assert all(v.isfinite().all() for v in final["model"].values())
    text = said(folder, "nan_many")
    assert "more than the 2 steps" in text


def test_bad_images_are_known_to_both(folder):
    assert said(folder, "bad") == "finished"
    assert json.loads((folder / "bad/bad_samples.json").read_text()).keys() == {"3.png"}
    assert said(folder, "too_bad").startswith("ValueError: 2 images of the training split")


def test_the_main_process_alone_logs(folder):
    assert said(folder, "logged") == "finished"
    told = one(folder / "logged")
    assert [e["iteration"] for e in told.history if "loss/total" in e] == list(range(6))
    assert told.exit == 0


def test_the_best_is_kept_by_the_main_process(folder):
    assert said(folder, "evaluated") == "finished"
    assert state(folder / "evaluated", "model_best.pth")["iteration"] == 3


def test_both_fall_back_past_a_torn_checkpoint(folder):
    assert said(folder, "torn") == "finished"
    assert (folder / "torn" / "model_0000003.pth.torn").is_file()
    assert same(state(folder / "whole"), state(folder / "torn"))


def test_parameters_without_part_in_the_loss_are_named(folder):
    for name in ("unused", "unused_in_one"):
        assert "ValueError: 2 parameters take no part in the loss: fc.weight, fc.bias" in said(
            folder, name
        )
    assert "the loss of the step before" in said(folder, "unused_later")
    assert said(folder, "allowed") == "finished"


def test_all_processes_evaluate_with_the_statistics_of_the_main_one(folder):
    assert said(folder, "statistics") == "finished"
    assert len(said(folder, "noted").splitlines()) == 2 * 3
