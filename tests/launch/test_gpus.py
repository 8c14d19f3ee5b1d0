"""GPUs given out to jobs: never one to two, never too few, all back when a job is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from panoptic_dl.core.files import release_lock
from panoptic_dl.launch import gpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_held", {})
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    yield
    for lock in gpus._held.values():
        release_lock(lock)


def sweep_of(names: str) -> dict[str, str]:
    environment = {gpus.VISIBLE: names}
    gpus.give_out_gpus(environment)
    return environment


# A job that takes GPUs, notes from when to when it had them, and ends.
JOB = """
import logging, os, random, sys, time
from panoptic_dl.launch.gpus import take_gpus
names = take_gpus(int(sys.argv[1]))
assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(names)
print("took", *names, flush=True)
begin = time.monotonic()
time.sleep(float(sys.argv[2]))
print("had", begin, time.monotonic(), *names, flush=True)
"""


def job(tmp_path, wanted: int, seconds: float, names="3,5,GPU-abc") -> subprocess.Popen:
    environment = os.environ | {"TMPDIR": str(tmp_path), gpus.GIVEN_OUT: names, gpus.VISIBLE: ""}
    command = [sys.executable, "-c", JOB, str(wanted), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=pipe)


def test_no_gpu_is_given_to_two_jobs_at_a_time(tmp_path):
    wanted = [1, 2, 3, 1, 2, 1, 1, 3]
    jobs = [job(tmp_path, number, 0.2) for number in wanted]
    spans = []
    for number, process in zip(wanted, jobs, strict=True):
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        _, begin, end, *names = said.splitlines()[-1].split()
        assert len(names) == len(set(names)) == number
        assert set(names) <= {"3", "5", "GPU-abc"}
        spans += [(name, float(begin), float(end)) for name in names]
    for name, begin, end in spans:
        others = [s for s in spans if s[0] == name and s[1:] != (begin, end)]
        assert all(later >= end or earlier <= begin for _, later, earlier in others)


def test_a_killed_job_gives_its_gpus_back(tmp_path):
    first = job(tmp_path, 3, 60)
    assert first.stdout.readline().startswith("took")
    second = job(tmp_path, 1, 0)
    time.sleep(0.7)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=30)[0].startswith("took")


def test_outside_of_such_a_sweep_nothing_is_taken(tmp_path):
    environment = {gpus.VISIBLE: "0,1"}
    assert gpus.take_gpus(1, environment) == []
    assert environment == {gpus.VISIBLE: "0,1"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "wanted", "taken"),
    [
        ("-1", None, []),
        ("", None, []),
        ("", 0, []),
        ("2,7", None, ["2"]),
        ("2,7", 0, []),
        ("2, 7", 2, ["2", "7"]),
    ],
)
def test_numbers_are_those_of_launch(names, wanted, taken):
    environment = sweep_of(names)
    assert gpus.take_gpus(wanted, environment) == taken
    assert environment[gpus.VISIBLE] == ",".join(taken)


def test_a_worker_of_joblib_keeps_its_gpus(tmp_path):
    environment = sweep_of("0,1,2")
    assert gpus.take_gpus(2, environment) == gpus.take_gpus(2, environment) == ["0", "1"]
    assert gpus.take_gpus(1, environment) == ["0"]
    with pytest.raises(ValueError, match="the same number, or each a process of its own"):
        gpus.take_gpus(3, environment)


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num_gpus=3, but the sweep has 2 .*launch.num_gpus=2"):
        gpus.take_gpus(3, sweep_of("0,1"))
    with pytest.raises(ValueError, match=r"Choose launch.num_gpus=0 \(the CPU\)"):
        gpus.take_gpus(1, sweep_of(""))


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / f"panoptic-dl-gpus-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="belongs to another user; set TMPDIR"):
        gpus.take_gpus(1, sweep_of("0"))
