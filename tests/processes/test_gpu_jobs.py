"""GPUs given out to jobs: never one to two, never too few, all back when a job is gone."""

import os
import signal
import subprocess
import sys
import time

from panoptic_dl.launch import gpus
from tests.runs import ROOT

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
