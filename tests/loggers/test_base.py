"""Loggers are called in order; one that fails is left out."""

import pytest

from panoptic_dl.config import ConfigError, compose
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers.base import Details, Logger, Loggers, Run
from tests.train.tiny_run import TinyEvaluation, run_training


class Recording(Logger):
    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def _record(self, *what):
        self.calls.append(what)
        if what[0] == self.fails_at:
            raise RuntimeError("broken")

    def start(self, run):
        self._record("start", run.mode, run.start, len(run.history))

    def step(self, iteration, metrics):
        assert {"total_loss", "lr"} <= set(metrics)
        self._record("step", iteration)

    def evaluation(self, iteration, metrics, details):
        self._record("evaluation", iteration, dict(metrics))

    def checkpoint(self, file, iteration, best):
        assert file.is_file()
        self._record("checkpoint", iteration, best)

    def finish(self, status, exit_code):
        self._record("finish", status, exit_code)


def test_the_order_of_calls(tmp_path):
    recording = Recording()
    evaluation = TinyEvaluation(10.0, 20.0)
    run_training(
        tmp_path, iterations=4, evaluation=evaluation, eval_period=2, loggers={"n": recording}
    )
    assert recording.calls == [
        ("start", "train", 0, 0),
        ("step", 0),
        ("step", 1),
        ("checkpoint", 1, False),
        ("evaluation", 1, {"PQ": 10.0}),
        ("checkpoint", 1, True),
        ("step", 2),
        ("step", 3),
        ("checkpoint", 3, False),
        ("evaluation", 3, {"PQ": 20.0}),
        ("checkpoint", 3, True),
        ("finish", "finished", 0),
    ]
    again = Recording()
    run_training(tmp_path, iterations=5, resume=True, eval_at_end=False, loggers={"n": again})
    assert again.calls[:2] == [("start", "train", 4, 6), ("step", 4)]


@pytest.mark.parametrize("place", ["start", "step", "evaluation", "checkpoint", "finish"])
def test_one_that_fails_is_left_out(tmp_path, caplog, place):
    bad, good = Recording(fails_at=place), Recording()
    run_training(tmp_path, iterations=4, loggers={"bad": bad, "good": good})
    assert good.calls[-1] == ("finish", "finished", 0)
    assert len([call for call in bad.calls if call[0] == place]) == (2 if place == "finish" else 1)
    assert bad.calls[-1][0] == "finish"
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("logger=bad failed and is left out from here on")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted(15), ("stopped", 75)),
        (KeyboardInterrupt(), ("stopped", 130)),
        (FloatingPointError(), ("failed", 76)),
        (OSError(), ("failed", 1)),
    ],
)
def test_finish_gets_the_exit_status(error, status):
    recording = Recording()
    loggers = Loggers({"n": recording})
    with pytest.raises(type(error)), loggers:  # noqa: PT012
        loggers.start(Run(".", "train"))
        raise error
    loggers.step(7, {})
    assert recording.calls == [("start", "train", 0, 0), ("finish", *status)]


def test_a_run_that_was_refused_calls_no_logger(tmp_path):
    run_training(tmp_path, iterations=2)
    recording = Recording()
    with pytest.raises(ValueError, match="resume=true"):
        run_training(tmp_path, iterations=2, loggers={"n": recording})
    assert recording.calls == []


def test_what_is_no_logger_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"logger\.wandb is no logger"):
        run_training(tmp_path, loggers={"wandb": {"project": "x"}})


def test_other_processes_call_no_logger(tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.loggers.base.comm.is_main_process", lambda: False)
    recording = Recording()
    with Loggers({"n": recording}) as loggers:
        loggers.start(Run(tmp_path, "eval"))
        loggers.evaluation(0, {}, Details())
    assert recording.calls == []


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ([], ["tensorboard"]),
        (["logger=wandb"], ["wandb"]),
        (["logger=[wandb,csv]", "logger.wandb.log_checkpoints=best"], ["wandb", "csv"]),
        (["logger=[]"], []),
        (["logger=none"], []),
    ],
)
def test_choices(override, names):
    assert list(compose(override).logger) == names


def test_a_logger_that_was_not_chosen_has_no_options():
    with pytest.raises(ConfigError, match=r"logger\.wandb\.project"):
        compose(["logger.wandb.project=mine"])
