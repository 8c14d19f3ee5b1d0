"""Whatever is wrong with W&B, training goes on, with one warning and all local files."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import wandb

from panoptic_dl.loggers import wandb as ours
from panoptic_dl.loggers import wandb as wandb_account
from panoptic_dl.loggers import wandb as wandb_files
from tests.train.tiny_run import TinyModel, run_training

from .reading import attempts, one
from .told import Detailed, wandb_logger


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


def test_init_raises(tmp_path, monkeypatch, said):
    monkeypatch.setattr(wandb, "init", raising(RuntimeError("no such thing")))
    train(tmp_path)
    (warning,) = said()
    assert warning.startswith("logger=wandb failed and is left out from here on")
    assert "RuntimeError: no such thing" in warning


def test_wandb_cannot_be_imported(tmp_path, monkeypatch, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(tmp_path)
    (warning,) = said()
    assert "ModuleNotFoundError" in warning


@pytest.mark.parametrize("method", ["log", "define_metric"])
def test_a_call_raises(tmp_path, monkeypatch, said, method):
    monkeypatch.setattr(wandb.Run, method, raising(ConnectionResetError("gone")))
    train(tmp_path)
    (warning,) = said()
    assert "gone" in warning
    assert one(tmp_path).exit == 1  # what there is of it is closed


def test_the_disk_is_full(tmp_path, monkeypatch, said):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(wandb_files, "write_text", raising(full))
    train(tmp_path)
    (warning,) = said()
    assert "No space left" in warning


def test_the_folder_cannot_be_made(tmp_path, said):
    (tmp_path / "wandb").write_text("in the way")
    train(tmp_path)
    (warning,) = said()
    assert "FileExistsError" in warning


def test_the_file_with_the_id_is_damaged(tmp_path, said):
    (tmp_path / "wandb.json").write_text('{"id": "../..')
    train(tmp_path)
    (warning,) = said()
    assert f"{tmp_path / 'wandb.json'} is damaged; remove it" in warning


def test_a_file_of_w_and_b_is_damaged(tmp_path, said):
    train(tmp_path)
    (file,) = tmp_path.glob("wandb/*run-*-*/*.wandb")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    run_training(tmp_path, resume=True, iterations=8, loggers={"wandb": wandb_logger()})
    assert said() == []
    told = attempts(tmp_path)[1]  # begins where the damage was
    assert [e["iteration"] for e in told.history if "train/total_loss" in e][-2:] == [6, 7]


def test_a_line_hangs(tmp_path, monkeypatch, said):
    monkeypatch.setattr(ours, "LINE", 0.5)
    real = wandb.Run.log

    def log(run, data, step, commit):
        real(run, data, step=step, commit=commit)
        time.sleep(20 * (step == 6))

    monkeypatch.setattr(wandb.Run, "log", log)
    assert train(tmp_path) < 10
    assert len(said()) == 1


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


def test_finishing_hangs(tmp_path, monkeypatch, said):
    """The fixture's teardown, and the end of a program, would hang too if it were not ended."""
    model = Holding()
    started = time.perf_counter()
    loggers = {"wandb": wandb_logger(finish_timeout=0.5)}
    run_training(tmp_path, model=model, loggers=loggers)
    assert model.held
    assert time.perf_counter() - started < 15
    (warning,) = said()
    assert "W&B: finishing took longer than" in warning
    assert not any(map(lives, model.held))
    # What it did not get, it gets when the run goes on.
    run_training(tmp_path, iterations=8, resume=True, loggers={"wandb": wandb_logger()})
    history = [entry for told in attempts(tmp_path) for entry in told.history]
    assert [e["iteration"] for e in history if "train/total_loss" in e] == list(range(8))


def test_the_server_cannot_be_reached(tmp_path, monkeypatch, said):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    train(tmp_path, init_timeout=2.0)
    (warning,) = said()
    assert "CommError" in warning
    assert "kept offline; send it later with `wandb login` and `wandb sync " in warning
    told = attempts(tmp_path)
    assert any(t.exit == 0 and len(t.history) == 9 for t in told)


def test_a_key_that_is_none_is_not_asked_for_again(tmp_path, monkeypatch, said):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    train(tmp_path)
    (warning,) = said()
    assert "kept offline" in warning


@pytest.mark.parametrize("mode", [None, "online"])
def test_without_a_key_nobody_is_asked_for_one(tmp_path, monkeypatch, said, mode):
    asked = []
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("builtins.input", lambda *arguments: asked.append("input") or "")
    monkeypatch.setattr("getpass.getpass", lambda *arguments: asked.append("getpass") or "")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    train(tmp_path, mode=mode)
    assert asked == []
    (warning,) = said()
    assert "there is no key for 127.0.0.1:9. The run is kept offline" in warning
    assert one(tmp_path).exit == 0


def test_where_keys_are_looked_for(tmp_path, monkeypatch):
    server = "https://api.example.org"
    assert not wandb_account.has_key([server])
    file = tmp_path / "keys"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine api.example.org login user password " + "b" * 40)
    assert wandb_account.has_key([server])
    assert not wandb_account.has_key(["https://elsewhere.org"])
    file.write_text("machine {{ what")
    assert not wandb_account.has_key([server])
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    assert wandb_account.has_key([server])


def test_disabled_is_silent(tmp_path, monkeypatch, said):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(tmp_path, log_checkpoints="all")
    assert said() == []
    assert attempts(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("log_checkpoints", "some"), ("mode", "ofline"), ("finish_timeout", 0)],
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"logger\.wandb\.{option}={value}"):
        wandb_logger(**{option: value})
