"""Runs that SLURM's or submitit's signal stops, and that go on by themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from panoptic_dl.core.run_folder import ExitCode
from tests.runs import ENVIRONMENT, ROOT, SMALL


def start(*arguments, **environment):
    command = [sys.executable, "run.py", *arguments, "train.iterations=40"]
    command += ["launch.requeue=true", "resume=auto"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def iterations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["iteration"] for line in lines if "total_loss" in line]


def job_of_submitit(sweep):
    """The process id of the job; `ps` by hand."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit.core._submit" in words and any(str(sweep).encode() in w for w in words):
            return int(process.parent.name)
    return None


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_submitit_requeues_a_job_that_goes_on_in_its_folder(tmp_path, toy, num_processes):
    process = start(
        *("-m", "hydra/launcher=submitit_local", *SMALL, *toy["toy_cityscapes"], "seed=3"),
        *(f"launch.num_cpu_processes={num_processes}", f"hydra.sweep.dir={tmp_path}"),
    )
    wait_for(lambda: [f for f in tmp_path.glob("*/metrics.json") if f.read_text()], process)
    os.kill(job_of_submitit(tmp_path), signal.SIGUSR2)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    (folder,) = tmp_path.glob("toy*")
    log = (folder / "log.txt").read_text()
    assert log.count("Running on the CPU") == 2
    assert "Resumed from" in log
    assert iterations(folder) == list(range(40))
    assert (folder / "results.json").is_file()


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_slurm_job_queues_again_and_the_same_command_goes_on(tmp_path, toy, num_processes):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls.txt\n')
    scontrol.chmod(0o755)
    slurm = {"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    folder = tmp_path / "run"
    command = [*SMALL, *toy["toy_cityscapes"], f"run_dir={folder}"]
    command.append(f"launch.num_cpu_processes={num_processes}")
    process = start(*command, **slurm)
    metrics = folder / "metrics.json"
    wait_for(lambda: metrics.is_file() and metrics.read_text(), process)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == ExitCode.SAVED, output
    assert (tmp_path / "calls.txt").read_text() == "requeue 42\n"
    assert "Queued again: `scontrol requeue 42`" in (folder / "log.txt").read_text()
    again = start(*command, **slurm)
    output = again.communicate(timeout=400)[0]
    assert again.returncode == 0, output
    assert iterations(folder) == list(range(40))
