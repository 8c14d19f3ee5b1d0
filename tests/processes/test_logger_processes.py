"""The real wandb without a network: what it leaves is read back, and no failure stops a run."""

import csv
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from PIL import Image

from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers import base
from panoptic_dl.loggers import wandb as ours
from panoptic_dl.loggers.base import tagged
from tests.loggers.detailed import Detailed, write_facts
from tests.runs import SMALL, in_process
from tests.train.tiny_run import Stopping, TinyModel, run_training

from .wandb_runs import attempts, media, one, wandb_logger


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # its process and settings are of the environment before
    yield
    wandb.teardown()


@pytest.fixture
def messages(caplog):
    """Messages of loggers."""
    caplog.set_level("INFO", logger="panoptic_dl")

    def found(level="WARNING"):
        return [
            r.getMessage()
            for r in caplog.records
            if r.name.startswith("panoptic_dl.loggers") and r.levelname == level
        ]

    return found


FEW_PICTURES = ["evaluation.best_and_worst=1", "evaluation.picture_count=2"]


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]


def test_everything_is_there(tmp_path):
    write_facts(tmp_path)
    evaluation = Detailed(40.0, 60.0, 50.0)
    loggers = {"wandb": wandb_logger(tags=["mine"], log_checkpoints="best")}
    run_training(tmp_path, evaluation=evaluation, eval_period=2, loggers=loggers)

    log = one(tmp_path)
    assert log.run.run_id == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (log.run.project, log.run.display_name) == ("tests", "tiny")
    assert (log.run.run_group, log.run.job_type) == ("cityscapes", "train")
    assert set(log.run.tags) == {"backbone=hrnet48", "head=conv", "mine"}
    assert log.config["optimizer"]["betas"] == [0.9, 0.99]
    assert log.config["run"]["git"]["revision"] == "abc"
    assert log.config["network"] == {"parameters": 65}
    assert {m.name: m.step_metric for m in log.metrics} == {"iteration": "", "": "iteration"}
    assert log.exit == 0
    assert not log.preempted

    trained = [entry for entry in log.history if "loss/total" in entry]
    steps = [line for line in lines(tmp_path) if "total_loss" in line]
    assert len(steps) == 6
    for entry, line in zip(trained, steps, strict=True):
        assert entry["iteration"] == line["iteration"]
        wanted = tagged(line)
        assert {"loss/total", "loss/fit", "lr", "memory/host_MiB"} <= set(wanted)
        assert {name: entry[name] for name in wanted} == wanted
    assert {"time/images_per_s", "time/data", "time/iteration"} <= set(trained[-1])

    evaluated = [entry for entry in log.history if "val/PQ" in entry]
    assert [(e["iteration"], e["val/PQ"]) for e in evaluated] == [(1, 40.0), (3, 60.0), (5, 50.0)]
    assert log.summary["PQ/last"] == 50.0
    assert log.summary["PQ/best"] == 60.0
    assert log.summary["PQ/best_iteration"] == 3
    assert not any(name.startswith("AP/") for name in log.summary)  # which is not defined
    assert log.summary["status"] == "finished"

    models = [a for a in log.artifacts if a.type == "model"]
    assert [sorted(a.aliases) for a in models] == [
        ["best", "iteration-1", "latest"],
        ["best", "iteration-3", "latest"],
    ]
    assert models[1].manifest.contents[0].local_path.startswith(str(tmp_path / "wandb"))
    assert "WANDB_DATA_DIR" not in os.environ


def test_pictures_and_values_of_classes(tmp_path):
    run_training(tmp_path, iterations=1, evaluation=Detailed(), loggers={"wandb": wandb_logger()})
    log = one(tmp_path)
    (entry,) = [e for e in log.history if "val/PQ" in e]
    classes = {key: value for key, value in entry.items() if key.startswith("val_PQ")}
    assert classes == {"val_PQ/road": 0.0, "val_PQ/car": 10.0}  # sky is not defined
    picture = media(tmp_path, entry, "pictures/worst")
    assert Image.open(picture).size == (8, 8)
    assert picture.suffix == ".jpg"
    assert not any(key.startswith("pictures/predictions") for key in entry)

    shown = np.asarray(Image.open(media(tmp_path, entry, "predictions/1"))).astype(int)
    assert shown.shape == (12, 32, 3)
    assert np.abs(shown[:, :15] - (0, 0, 255)).max() < 20  # the ground truth, on the left


def test_pictures_can_be_left_out(tmp_path):
    loggers = {"wandb": wandb_logger(pictures=False)}
    run_training(tmp_path, iterations=1, evaluation=Detailed(), loggers=loggers)
    (entry,) = [e for e in one(tmp_path).history if "val/PQ" in e]
    assert "val_PQ/car" in entry
    assert not any(key.startswith(("predictions", "pictures")) for key in entry)


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
    assert [log.run.run_id for log in (first, second) if log.run] == [known] * (1 + bool(seconds))
    assert second.run.resume
    history = first.history + second.history
    numbers = [entry["step"] for entry in history]
    assert numbers == sorted(set(numbers))
    trained = [e for e in history if "loss/total" in e]
    assert [e["iteration"] for e in trained] == list(range(9))
    for entry, line in zip(trained, [x for x in lines(tmp_path) if "lr" in x], strict=True):
        assert entry["loss/total"] == line["total_loss"]
    evaluated = [e["iteration"] for e in history if "val/PQ" in e]
    assert evaluated == [3, 7, 8]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, "stopped"), (None, "failed")], ids=["SIGTERM", "NaN"]
)
def test_how_it_ended_is_logged(tmp_path, number, status):
    if number:
        with pytest.raises(Interrupted):
            run_training(tmp_path, model=Stopping(4, number), loggers={"wandb": wandb_logger()})
    else:
        model = Stopping(99)
        model.fail_at = 3
        with pytest.raises(FloatingPointError):
            run_training(tmp_path, model=model, loggers={"wandb": wandb_logger()})
    log = one(tmp_path)
    assert log.summary["status"] == status
    assert log.exit == (75 if number else 76)
    assert log.preempted == bool(number)


def test_an_evaluation_that_is_done_again_is_there_once_and_the_summary_is_new(tmp_path):
    run_training(tmp_path, evaluation=Detailed(40.0), loggers={"wandb": wandb_logger()})
    again = {"wandb": wandb_logger()}
    run_training(tmp_path, evaluation=Detailed(45.0), loggers=again, resume=True)
    first, second = attempts(tmp_path)
    assert len([e for e in first.history if "val/PQ" in e]) == 1
    assert second.history == []
    assert second.summary["PQ/last"] == 45.0


def test_a_run_that_had_no_wandb_is_caught_up_with(tmp_path):
    run_training(tmp_path, iterations=3)
    run_training(tmp_path, iterations=5, resume=True, loggers={"wandb": wandb_logger()})
    trained = [e for e in one(tmp_path).history if "loss/total" in e]
    assert [e["iteration"] for e in trained] == list(range(5))


def test_a_rehearsal_logs_nothing(tmp_path):
    run_training(tmp_path, fast_dev_run=True, loggers={"wandb": wandb_logger()})
    assert list(tmp_path.rglob("*wandb*")) == []


def test_several_runs_in_one_process_do_not_mix(tmp_path):
    for name in ("one", "two"):
        run_training(tmp_path / name, iterations=2, loggers={"wandb": wandb_logger(name=name)})
    log = [one(tmp_path / name) for name in ("one", "two")]
    assert [t.run.display_name for t in log] == ["one", "two"]
    assert log[0].run.run_id != log[1].run.run_id
    assert all(len([e for e in t.history if "loss/total" in e]) == 2 for t in log)


def train(folder, **changes):
    """A training with W&B; all that does not depend on it must be there."""
    loggers = {"wandb": wandb_logger(**changes)}
    started = time.perf_counter()
    run_training(folder, loggers=loggers, evaluation=Detailed(), eval_period=3)
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 2, 3, 4, 5, 5]
    assert (folder / "model_final.pth").is_file()
    return time.perf_counter() - started


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


def test_init_raises(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(wandb, "init", raising(RuntimeError("no such thing")))
    train(tmp_path)
    (warning,) = messages()
    assert warning.startswith("logger=wandb failed and is left out from here on")
    assert "RuntimeError: no such thing" in warning


@pytest.mark.parametrize("method", ["log", "define_metric"])
def test_a_call_raises(tmp_path, monkeypatch, messages, method):
    monkeypatch.setattr(wandb.Run, method, raising(ConnectionResetError("gone")))
    train(tmp_path)
    (warning,) = messages()
    assert "gone" in warning
    assert one(tmp_path).exit == 1  # what there is of it is closed


def test_the_disk_is_full(tmp_path, monkeypatch, messages):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(base, "write_text", raising(full))
    train(tmp_path)
    (warning,) = messages()
    assert "No space left" in warning


def test_the_folder_cannot_be_made(tmp_path, messages):
    (tmp_path / "wandb").write_text("in the way")
    train(tmp_path)
    (warning,) = messages()
    assert "FileExistsError" in warning


def test_the_file_with_the_id_is_damaged(tmp_path, messages):
    (tmp_path / "wandb.json").write_text('{"id": "../..')
    train(tmp_path)
    (warning,) = messages()
    assert f"{tmp_path / 'wandb.json'} is damaged; remove it" in warning


def test_a_file_of_w_and_b_is_damaged(tmp_path, messages):
    train(tmp_path)
    (file,) = tmp_path.glob("wandb/*run-*-*/*.wandb")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    run_training(tmp_path, resume=True, iterations=8, loggers={"wandb": wandb_logger()})
    assert messages() == []
    log = attempts(tmp_path)[1]  # begins where the damage was
    assert [e["iteration"] for e in log.history if "loss/total" in e][-2:] == [6, 7]


def test_a_line_hangs(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(ours, "LINE", 0.5)
    real = wandb.Run.log

    def log(run, data, step, commit):
        real(run, data, step=step, commit=commit)
        time.sleep(20 * (step == 6))

    monkeypatch.setattr(wandb.Run, "log", log)
    assert train(tmp_path) < 10
    assert len(messages()) == 1


class Holding(TinyModel):
    """Holds W&B's process up when the fourth step begins, as a machine in trouble does."""

    held = ()

    def forward(self, batch):
        if self.calls == 3:
            for number in children_named("wandb-core"):
                os.kill(number, signal.SIGSTOP)
                self.held = (*self.held, number)
        return super().forward(batch)


def lives(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] not in ("Z", "X")
    except OSError:
        return False


def children_named(name):
    files = Path("/proc/self/task").glob("*/children")
    numbers = [int(number) for file in files for number in file.read_text().split()]
    return [n for n in numbers if Path(f"/proc/{n}/comm").read_text().strip() == name]


def test_finishing_hangs(tmp_path, monkeypatch, messages):
    """The fixture's teardown, and the end of a program, would hang too if it were not ended."""
    model = Holding()
    started = time.perf_counter()
    loggers = {"wandb": wandb_logger(finish_timeout=0.5)}
    run_training(tmp_path, model=model, loggers=loggers)
    assert model.held
    assert time.perf_counter() - started < 15
    (warning,) = messages()
    assert "W&B: finishing took longer than" in warning
    assert not any(map(lives, model.held))
    # What it did not get, it gets when the run goes on.
    run_training(tmp_path, iterations=8, resume=True, loggers={"wandb": wandb_logger()})
    history = [entry for log in attempts(tmp_path) for entry in log.history]
    assert [e["iteration"] for e in history if "loss/total" in e] == list(range(8))


def test_the_server_cannot_be_reached(tmp_path, monkeypatch, messages):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    train(tmp_path, init_timeout=2.0)
    (warning,) = messages()
    assert "CommError" in warning
    assert "kept offline; send it later with `wandb login` and `wandb sync " in warning
    log = attempts(tmp_path)
    assert any(t.exit == 0 and len(t.history) == 8 for t in log)


def test_a_key_that_is_none_is_not_asked_for_again(tmp_path, monkeypatch, messages):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    train(tmp_path)
    (warning,) = messages()
    assert "kept offline" in warning


@pytest.mark.parametrize("mode", [None, "online"])
def test_without_a_key_nobody_is_asked_for_one(tmp_path, monkeypatch, messages, mode):
    asked = []
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("builtins.input", lambda *arguments: asked.append("input") or "")
    monkeypatch.setattr("getpass.getpass", lambda *arguments: asked.append("getpass") or "")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    train(tmp_path, mode=mode)
    assert asked == []
    (warning,) = messages()
    assert "there is no key for 127.0.0.1:9. The run is kept offline" in warning
    assert one(tmp_path).exit == 0


def test_disabled_is_silent(tmp_path, monkeypatch, messages):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(tmp_path, log_checkpoints="all")
    assert messages() == []
    assert attempts(tmp_path) == []


def test_a_training_and_an_evaluation_of_its_weights(tmp_path, toy):
    run_dir = tmp_path / "train"
    overrides = [*SMALL, *toy["toy_cityscapes"]]
    drawn = [*FEW_PICTURES, "evaluation.charts=true"]
    trained = in_process(run_dir, *overrides, *drawn, "logger=[tensorboard,wandb,csv]")
    with (run_dir / "figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["0", "1", "1"]
    log = one(run_dir)
    assert log.run.display_name == "toy_cityscapes_panoptic_hrnet_tiny_conv"
    (entry,) = [e for e in log.history if "val/PQ" in e]
    for name, value in trained["metrics"].items():
        assert entry[f"val/{name}"] == pytest.approx(value, nan_ok=True)
    keys = {key.rpartition("/")[0] for key in entry}
    drawn = ("worst", "best", "confusions", "pq_by_class", "iou_by_class")
    assert {f"pictures/{name}" for name in drawn} <= keys
    assert len([key for key in keys if key.startswith("predictions/")]) == 2
    assert len([key for key in entry if key.startswith("val_PQ/")]) > 5
    # An offline run is small: pictures are JPEGs, and no copies wait to be sent.
    files = [file for file in (run_dir / "wandb").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert not (run_dir / "wandb" / "artifacts").exists()
    (events,) = run_dir.glob("events.out.tfevents*")
    assert events.stat().st_size < 2_000_000

    evaluated = [*overrides, "mode=eval", "logger=wandb", f"weights={run_dir}/model_final.pth"]
    in_process(tmp_path / "eval", *evaluated, *FEW_PICTURES)
    alone = one(tmp_path / "eval")
    assert alone.run.job_type == "eval"
    assert alone.summary["PQ/last"] == log.summary["PQ/last"]
    assert alone.exit == 0


def test_a_benchmark(tmp_path):
    small = [
        "mode=benchmark",
        *SMALL[:7],
        "benchmark.image_size=[64,128]",
        "benchmark.iterations=1",
    ]
    numbers = [f"benchmark.{name}=1" for name in ("num_scenes", "warmup", "iterations")]
    overrides = [*small, *numbers, "logger=[csv,wandb]"]
    results = in_process(tmp_path, *overrides)
    log = one(tmp_path)
    assert log.run.job_type == "benchmark"
    assert log.summary["benchmark/total ms"] == pytest.approx(results["metrics"]["total ms"])
    assert log.summary["benchmark/GMACs"] == pytest.approx(results["GMACs"])
    assert not (tmp_path / "figures.csv").exists()
