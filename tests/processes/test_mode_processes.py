"""Modes in processes of their own: two processes evaluate and analyze as one, sweeps, locks."""

import json
import os
import subprocess
import sys

import pytest

from tests.runs import SMALL, run
from tests.train.tiny_run import run_training


def test_one_run_at_a_time_in_a_folder(tmp_path):
    holder = "from panoptic_dl.core.files import folder_lock; from pathlib import Path;"
    code = (
        f"{holder}\nwith folder_lock(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"in use by process {other.pid} on .*another run_dir"):
        run_training(tmp_path)
    other.kill()
    other.wait()
    run_training(tmp_path, iterations=1)
    assert (tmp_path / "model_final.pth").is_file()


def test_fast_dev_run_in_two_processes(tmp_path, toy):
    done = run(
        *SMALL,
        *toy["toy_cityscapes"],
        "dataset.root.num_val=6",
        "train.fast_dev_run=true",
        "train.ema=0.9",
        "launch.num_cpu_processes=2",
        f"run_dir={tmp_path}",
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "fast_dev_run" / "results.json").read_text())
    assert summary["no_result"] == "fast_dev_run: 4 of 6 images, no result"
