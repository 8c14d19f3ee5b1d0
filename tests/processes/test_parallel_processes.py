"""Ctrl-C in a terminal reaches a command and all its workers."""

import os
import signal
import subprocess
import sys
import time

from tests.runs import ROOT

CODE = """
import sys, time
from pathlib import Path
from preparation import run_command
from panoptic_dl.core.parallel import parallel_map
from tests.core.long_job import long
def prepare(root, num_workers):
    list(parallel_map(long, [(4.0, Path(root, "under way")), (0.0, Path(root, "b"))], 2))
run_command("", prepare, prepare, "")
"""


def test_ctrl_c_of_a_terminal_ends_workers_that_have_nothing_to_do_in_silence(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "scripts"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not (tmp_path / "under way").exists():
        time.sleep(0.02)
    time.sleep(1)  # the other one waits for work
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "\nstopped; the same command goes on from here\n"
    assert not list(tmp_path.iterdir())
