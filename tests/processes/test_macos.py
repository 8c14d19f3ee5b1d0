"""A run starts, trains and evaluates where names that only Linux has are missing."""

import subprocess
import sys
from pathlib import Path

from tests.runs import ENVIRONMENT, ROOT, SMALL

# What imports PyTorch needs is imported first; then this system has no /proc, no C library of GNU,
# and no count of the cores that a process may use.
CODE = """
import ctypes, io, os, runpy, sys
import torch
import detectron2.engine

def missing(*arguments, **options):
    raise OSError(2, "no such file or library")

def without_proc(function):
    def call(path, *arguments, **options):
        if str(path).startswith(("/proc", "/sys", "/dev/shm")):
            missing()
        return function(path, *arguments, **options)
    return call

del os.sched_getaffinity
ctypes.CDLL = missing
io.open = without_proc(io.open)
sys.argv = ["run.py", *sys.argv[1:]]
runpy.run_path("run.py", run_name="__main__")
"""


def test_a_run_needs_nothing_that_only_linux_has(tmp_path, toy):
    command = [*SMALL, *toy["toy_cityscapes"], f"run_dir={tmp_path}", "train.num_workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command, "evaluation.num_threads=1"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results.json").is_file()
    names = [*Path(ROOT, "panoptic_dl").rglob("*.py"), Path(ROOT, "run.py")]
    for unguarded in ("struct flock", "F_GETLK", "PDEATHSIG"):
        assert not [file for file in names if unguarded in file.read_text()]
