"""What a training shows on a terminal and in a pipe, with Ctrl-C, and what its log has."""

import re
import subprocess
import sys

import pytest

from panoptic_dl.core.run_folder import ExitCode
from tests.terminal import ROOT, on_terminal, shown

TRAINING = """
import sys, time
from pathlib import Path
from omegaconf import OmegaConf
from panoptic_dl.core import parallel
from panoptic_dl.launch.session import call_mode
from tests.train.tiny_run import TinyModel, run_training

class Slow(TinyModel):
    def forward(self, batch):
        time.sleep(0.05)
        return super().forward(batch)

folder, iterations = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
parallel.SECONDS_OF_A_BAR = 0  # each iteration is drawn
config = {
    "run_dir": str(folder),
    "seed": 0,
    "launch": {"requeue": False, "num_gpus": None},
    "mode": {"_target_": "panoptic_dl.train.train.train"},
    "train": {"fast_dev_run": False},
    "logger": {},
}
options = {"iterations": iterations, "model": Slow(), "eval_period": 4, "log_period": 2}
call_mode(OmegaConf.create(config), "cpu", lambda: run_training(folder, **options))
"""

pytestmark = pytest.mark.thorough


def check_log(folder, last):
    """All lines that a pipe would have had, and nothing that draws."""
    text = (folder / "log.txt").read_text()
    done = [int(number) for number in re.findall(r"INFO: iteration (\d+)/\d+  total_loss", text)]
    assert done[:3] == [2, 4, 6]
    assert done[-1] >= last
    assert "best PQ" in text
    assert "━" not in text
    assert "\x1b" not in text


def test_on_a_terminal_lines_of_the_log_stay_and_the_bar_goes(tmp_path):
    written, code = on_terminal(TRAINING, str(tmp_path / "run"), "12", columns=200)
    assert code == 0
    lines = shown(written)
    assert not [line for line in lines if line.startswith(("training ", "total_loss"))]
    assert not [line for line in lines if "iteration 2/12" in line]
    assert re.search(r"training .*━.* 50% 6/12 \[", written)
    assert re.search(r"total_loss .* fit .* lr .* memory .* best PQ", written)
    end = next(i for i, line in enumerate(lines) if "Finished training, 12 iterations" in line)
    assert [line.split()[0] for line in lines[end + 1 :]] == ["metrics", "files", "next"]
    check_log(tmp_path / "run", 12)


def test_ctrl_c_on_a_terminal_saves_and_leaves_it_tidy(tmp_path):
    run = str(tmp_path / "run")
    written, code = on_terminal(TRAINING, run, "500", columns=200, interrupt_at=r" 9/500 ")
    assert code == ExitCode.SAVED
    lines = shown(written)
    assert not [line for line in lines if line.startswith(("training ", "total_loss"))]
    assert len([line for line in lines if "Stopped by SIGINT" in line]) == 1
    check_log(tmp_path / "run", 8)


def test_a_pipe_gets_lines(tmp_path):
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "run"), "6"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"iteration (\d)/6  total_loss", done.stdout) == ["2", "4", "6"]
    assert "Finished training, 6 iterations" in done.stdout
    assert "━" not in done.stdout + done.stderr
    assert "\x1b[2K" not in done.stdout + done.stderr
    check_log(tmp_path / "run", 6)
