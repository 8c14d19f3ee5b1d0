"""Loggers are told everything in order; one that fails is left out, and the others go on."""

import pytest

from panoptic_dl.launch.session import exit_status
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers.base import Details, Logger, Loggers, Run, ending
from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from tests.train.tiny_run import TinyEvaluation, run_training


class Noting(Logger):
    def __init__(self, fails_at=None):
        self.told, self.fails_at = [], fails_at

    def _note(self, *what):
        self.told.append(what)
        if what[0] == self.fails_at:
            raise RuntimeError("broken")

    def start(self, run):
        self._note("start", run.mode, run.start, len(run.history))

    def step(self, iteration, figures):
        assert {"total_loss", "lr"} <= set(figures)
        self._note("step", iteration)

    def evaluation(self, iteration, figures, details):
        self._note("evaluation", iteration, dict(figures))

    def checkpoint(self, file, iteration, best):
        assert file.is_file()
        self._note("checkpoint", iteration, best)

    def finish(self, status, exit_code):
        self._note("finish", status, exit_code)


def test_the_order_of_what_is_told(tmp_path):
    noting = Noting()
    evaluation = TinyEvaluation(10.0, 20.0)
    run_training(
        tmp_path, iterations=4, evaluation=evaluation, eval_period=2, loggers={"n": noting}
    )
    assert noting.told == [
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
    again = Noting()
    run_training(tmp_path, iterations=5, resume=True, eval_at_end=False, loggers={"n": again})
    assert again.told[:2] == [("start", "train", 4, 6), ("step", 4)]


@pytest.mark.parametrize("place", ["start", "step", "evaluation", "checkpoint", "finish"])
def test_one_that_fails_is_left_out(tmp_path, caplog, place):
    bad, good = Noting(fails_at=place), Noting()
    run_training(tmp_path, iterations=4, loggers={"bad": bad, "good": good})
    assert good.told[-1] == ("finish", "finished", 0)
    assert len([told for told in bad.told if told[0] == place]) == (2 if place == "finish" else 1)
    assert bad.told[-1][0] == "finish"
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
def test_how_a_run_ended(error, status):
    noting = Noting()
    loggers = Loggers({"n": noting})
    with pytest.raises(type(error)), ending(loggers, exit_status):  # noqa: PT012
        loggers.start(Run(".", "train"))
        raise error
    loggers.step(7, {})
    assert noting.told == [("start", "train", 0, 0), ("finish", *status)]


def test_a_run_that_was_refused_is_not_told_of(tmp_path):
    run_training(tmp_path, iterations=2)
    noting = Noting()
    with pytest.raises(ValueError, match="resume=true"):
        run_training(tmp_path, iterations=2, loggers={"n": noting})
    assert noting.told == []


def test_what_is_no_logger_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"logger\.wandb is no logger"):
        run_training(tmp_path, loggers={"wandb": {"project": "x"}})


def test_tensorboard_has_each_figure_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"eval_period": 2, "evaluation": TinyEvaluation(10.0, 20.0)}
    run_training(tmp_path, iterations=4, loggers={"t": TensorBoardLogger()}, **options)
    run_training(tmp_path, resume=True, loggers={"t": TensorBoardLogger()}, **options)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    # Of two files with numbers 9 and 10 at the end of their names, the later one is read first.
    assert sorted(e.step for e in events.Scalars("total_loss")) == list(range(6))
    assert sorted(e.step for e in events.Scalars("PQ")) == [1, 3, 5]
    assert {"lr", "images_per_s", "host_memory_MiB"} <= set(events.Tags()["scalars"])


def test_an_evaluation_alone_leaves_no_events(tmp_path):
    loggers = Loggers({"t": TensorBoardLogger()})
    loggers.start(Run(tmp_path, "eval"))
    loggers.evaluation(0, {"PQ": 1.0}, Details())
    loggers.finish("finished", 0)
    assert list(tmp_path.iterdir()) == []


def test_other_processes_tell_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.loggers.base.comm.is_main_process", lambda: False)
    noting = Noting()
    loggers = Loggers({"n": noting})
    loggers.start(Run(tmp_path, "eval"))
    loggers.evaluation(0, {}, Details())
    loggers.finish("finished", 0)
    assert not loggers
    assert noting.told == []
