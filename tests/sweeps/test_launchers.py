"""Rows beside each other: how one ends is its own affair, how the sweep ends is all of theirs."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from panoptic_dl.core.run_folder import FAILED
from panoptic_dl.launch.gpus import GIVEN_OUT
from tests.runs import multirun

TWO = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def task(config):
    """End as `how` says, in a folder of the row."""
    Path("began").touch()
    if config.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.how == "wait":  # until it is asked to stop, which it saves
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda *_: exit(75))
            Path("ready").touch()
            time.sleep(60)
        finally:
            Path("saved").touch()
    return 1.0


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in (GIVEN_OUT, "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.setenv(name, "")


def rows(folder, *words):
    (folder / "config.yaml").write_text(
        "defaults: [{override hydra/job_logging: none}]\nhow: none\n"
        "hydra:\n  job: {chdir: true}\n  sweep:\n    dir: " + f"{folder}/rows\n"
        "    subdir: ${hydra.job.num}\n"
    )
    multirun(*TWO, *words, task=task, conf=folder)


def names(folder, file):
    return sorted(path.parent.name for path in (folder / "rows").glob(f"*/{file}"))


def test_a_killed_row_fails_alone(tmp_path, capfd):
    rows(tmp_path, "how=kill,none,none2")
    assert names(tmp_path, "began") == ["0", "1", "2"]
    assert names(tmp_path, FAILED) == ["0"]
    assert "SIGKILL: mostly memory ran out" in (tmp_path / "rows" / "0" / FAILED).read_text()


def test_a_signal_to_the_sweep_stops_all_rows_saved(tmp_path):
    def stop():
        while len(names(tmp_path, "ready")) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        rows(tmp_path, "how=wait,wait,none", "+n=1")
    assert end.value.code == 75
    assert names(tmp_path, "saved") == ["0", "1"]
    assert names(tmp_path, "began") == ["0", "1"]  # the third has not begun


def test_whoever_stops_a_row_stops_the_sweep(tmp_path):
    def stop():
        while len(names(tmp_path, "ready")) < 2:
            time.sleep(0.05)
        import multiprocessing

        multiprocessing.active_children()[0].terminate()

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        rows(tmp_path, "how=wait,wait,none", "+n=1")
    assert end.value.code == 75
    assert names(tmp_path, "saved") == ["0", "1"]
