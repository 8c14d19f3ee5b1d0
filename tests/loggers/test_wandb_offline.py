"""The real wandb, offline: what a tiny training leaves is read back from its file."""

import json
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers.wandb import of_step
from tests.train.tiny_run import Stopping, TinyModel, run_training

from .reading import attempts, media, one
from .told import NAMES, Detailed, wandb_logger


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]


def test_everything_is_there(tmp_path):
    about = {"choices": {"backbone": "hrnet48", "head": "conv", "recipe": None, "mode": "train"}}
    about |= {"sweep": "cityscapes", "git": {"revision": "abc", "changed": False}}
    about |= {"status": "running", "attempts": [], "mode": "train"}
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "resolved.yaml").write_text("optimizer: {lr: 0.05, betas: [0.9, 0.99]}")
    evaluation = Detailed(40.0, 60.0, 50.0)
    loggers = {"wandb": wandb_logger(tags=["mine"], log_checkpoints="best")}
    run_training(tmp_path, evaluation=evaluation, eval_period=2, loggers=loggers)

    told = one(tmp_path)
    assert told.run.run_id == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (told.run.project, told.run.display_name) == ("tests", "tiny")
    assert (told.run.run_group, told.run.job_type) == ("cityscapes", "train")
    assert set(told.run.tags) == {"backbone=hrnet48", "head=conv", "mine"}
    assert told.config["optimizer"] == {"lr": 0.05, "betas": [0.9, 0.99]}
    assert told.config["run"]["git"]["revision"] == "abc"
    assert told.config["network"] == {"parameters": 65, "trained": 65}
    assert {m.name: m.step_metric for m in told.metrics} == {"iteration": "", "": "iteration"}
    assert told.exit == 0
    assert not told.preempted

    trained = [entry for entry in told.history if "train/total_loss" in entry]
    steps = [line for line in lines(tmp_path) if "total_loss" in line]
    assert len(steps) == 6
    for entry, line in zip(trained, steps, strict=True):
        assert entry["iteration"] == line["iteration"]
        wanted = of_step(line)
        assert {"train/total_loss", "train/loss_fit", "lr", "memory/host_memory_MiB"} <= set(wanted)
        assert {name: entry[name] for name in wanted} == wanted
    assert {"speed/images_per_s", "speed/data_time", "speed/time"} <= set(trained[-1])

    evaluated = [entry for entry in told.history if "eval/PQ" in entry]
    assert [(e["iteration"], e["eval/PQ"]) for e in evaluated] == [(1, 40.0), (3, 60.0), (5, 50.0)]
    assert told.summary["PQ/last"] == 50.0
    assert told.summary["PQ/best"] == 60.0
    assert told.summary["PQ/best_iteration"] == 3
    assert not any(name.startswith("AP/") for name in told.summary)  # which is not defined
    assert told.summary["status"] == "finished"

    (parts,) = [e for e in told.history if "network/modules/path" in e]
    table = json.loads(media(tmp_path, parts, "network/modules").read_text())
    assert ["backbone", "Sequential", 56, 56] in table["data"]
    models = [a for a in told.artifacts if a.type == "model"]
    assert [sorted(a.aliases) for a in models] == [
        ["best", "iteration-1", "latest"],
        ["best", "iteration-3", "latest"],
    ]
    assert models[1].manifest.contents[0].local_path.startswith(str(tmp_path / "wandb"))
    assert "WANDB_DATA_DIR" not in os.environ


def test_pictures_tables_and_charts(tmp_path):
    run_training(tmp_path, iterations=1, evaluation=Detailed(), loggers={"wandb": wandb_logger()})
    told = one(tmp_path)
    (entry,) = [e for e in told.history if "eval/PQ" in e]
    name = "classes/Panoptic_quality_by_class"
    table = json.loads(media(tmp_path, entry, name).read_text())
    assert table["columns"] == ["name", "PQ"]
    assert table["data"] == [["road", 0.0], ["car", 10.0], ["sky", None]]
    cells = json.loads(media(tmp_path, entry, "charts/confusions_table").read_text())
    assert ["car", "none", 7] in cells["data"]
    assert len(cells["data"]) == 12
    bars = json.loads(media(tmp_path, entry, "charts/PQ_by_class_table").read_text())
    assert bars == table
    assert Image.open(media(tmp_path, entry, "pictures/worst")).size == (8, 8)

    shown = {k.removeprefix("images/validation/"): v for k, v in entry.items() if "images/" in k}
    (file,) = shown["filenames"]
    (folder,) = tmp_path.glob("wandb/*run-*-*/files")
    assert np.abs(np.asarray(Image.open(folder / file)).astype(int) - 200).max() <= 3
    (masks,) = shown["all_masks"]
    truth = np.asarray(Image.open(folder / masks["ground_truth"]["path"]))
    wanted = np.arange(12 * 16).reshape(12, 16) % 4 - 1
    assert (truth == np.where(wanted < 0, 255, wanted)).all()
    assert not np.asarray(Image.open(folder / masks["prediction"]["path"])).any()
    labels = told.config["_wandb"]["mask/class_labels"]
    assert len(labels) == 2
    for known in labels.values():
        assert known["value"] == {**{str(i): n for i, n in enumerate(NAMES)}, "255": "void"}


def test_pictures_can_be_left_out(tmp_path):
    loggers = {"wandb": wandb_logger(pictures=False)}
    run_training(tmp_path, iterations=1, evaluation=Detailed(), loggers=loggers)
    (entry,) = [e for e in one(tmp_path).history if "eval/PQ" in e]
    assert any(key.startswith("classes/") for key in entry)
    assert not any(key.startswith(("images/", "charts/", "pictures/")) for key in entry)


class Killed(TinyModel):
    """Ends its process in the eighth forward pass, some seconds after the seventh."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, batch):
        if self.calls == 7:
            time.sleep(self.seconds)  # in which W&B writes down the lines so far; by itself none
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_killed_and_resumed_is_one_continuous_run(tmp_path, seconds):
    options = {"eval_period": 4, "period": 100, "iterations": 9, "resume": "auto"}

    def attempt(model):
        loggers = {"wandb": wandb_logger()}
        run_training(tmp_path, model=model, loggers=loggers, evaluation=Detailed(), **options)

    pid = os.fork()
    if pid == 0:
        try:
            attempt(Killed(seconds))
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    attempt(TinyModel())
    *killed, second = attempts(tmp_path)
    first = killed[0] if seconds else SimpleNamespace(history=[], run=None)
    assert len(killed) == bool(seconds)
    # Iterations 4, 5 and 6 were logged, and trained again from 4 on.
    assert max([e["step"] for e in first.history], default=0) == (14 if seconds else 0)
    known = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert [told.run.run_id for told in (first, second) if told.run] == [known] * (
        1 + bool(seconds)
    )
    assert second.run.resume
    history = first.history + second.history
    numbers = [entry["step"] for entry in history]
    assert numbers == sorted(set(numbers))
    trained = [e for e in history if "train/total_loss" in e]
    assert [e["iteration"] for e in trained] == list(range(9))
    for entry, line in zip(trained, [x for x in lines(tmp_path) if "lr" in x], strict=True):
        assert entry["train/total_loss"] == line["total_loss"]
    evaluated = [e["iteration"] for e in history if "eval/PQ" in e]
    assert evaluated == [3, 7, 8]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, "stopped"), (None, "failed")], ids=["SIGTERM", "NaN"]
)
def test_how_it_ended_is_told(tmp_path, number, status):
    if number:
        with pytest.raises(Interrupted):
            run_training(tmp_path, model=Stopping(4, number), loggers={"wandb": wandb_logger()})
    else:
        model = Stopping(99)
        model.fail_at = 3
        with pytest.raises(FloatingPointError):
            run_training(tmp_path, model=model, loggers={"wandb": wandb_logger()})
    told = one(tmp_path)
    assert told.summary["status"] == status
    assert told.exit == (75 if number else 76)
    assert told.preempted == bool(number)


def test_an_evaluation_that_is_done_again_is_there_once_and_the_summary_is_new(tmp_path):
    run_training(tmp_path, evaluation=Detailed(40.0), loggers={"wandb": wandb_logger()})
    again = {"wandb": wandb_logger()}
    run_training(tmp_path, evaluation=Detailed(45.0), loggers=again, resume=True)
    first, second = attempts(tmp_path)
    assert len([e for e in first.history if "eval/PQ" in e]) == 1
    assert second.history == []
    assert second.summary["PQ/last"] == 45.0


def test_a_run_that_had_no_wandb_is_caught_up_with(tmp_path):
    run_training(tmp_path, iterations=3)
    run_training(tmp_path, iterations=5, resume=True, loggers={"wandb": wandb_logger()})
    trained = [e for e in one(tmp_path).history if "train/total_loss" in e]
    assert [e["iteration"] for e in trained] == list(range(5))


def test_a_rehearsal_logs_nothing(tmp_path):
    run_training(tmp_path, fast_dev_run=True, loggers={"wandb": wandb_logger()})
    assert list(tmp_path.rglob("*wandb*")) == []


def test_several_runs_in_one_process_do_not_mix(tmp_path):
    for name in ("one", "two"):
        run_training(tmp_path / name, iterations=2, loggers={"wandb": wandb_logger(name=name)})
    told = [one(tmp_path / name) for name in ("one", "two")]
    assert [t.run.display_name for t in told] == ["one", "two"]
    assert told[0].run.run_id != told[1].run.run_id
    assert all(len([e for e in t.history if "train/total_loss" in e]) == 2 for t in told)
