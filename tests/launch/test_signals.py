"""Signals stop a run as Ctrl-C does; a stopped SLURM job queues again, when it should and can."""

import os
import signal

import pytest

from panoptic_dl.launch.signals import STOPPING, Interrupted, interruptible, requeue_when_stopped


@pytest.fixture(autouse=True)
def ctrl_c_as_in_a_terminal():
    """What a shell starts in the background ignores SIGINT, and so would these tests."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_interrupts_once(number):
    before = {each: signal.getsignal(each) for each in STOPPING}
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # another of the same wish, while the run ends
    assert {each: signal.getsignal(each) for each in STOPPING} == before


def test_a_second_ctrl_c_interrupts_again():
    with interruptible():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_a_handler_of_somebody_else_stays():
    heard = []
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert heard == [signal.SIGUSR2]


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that notes how it was called; `behave(code)` has it fail."""
    program, calls = tmp_path / "bin" / "scontrol", tmp_path / "calls.txt"
    program.parent.mkdir()

    def behave(code):
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {calls}\necho "not allowed" >&2\nexit {code}\n'
        )
        program.chmod(0o755)

    behave(0)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    behave.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    return behave


def stop(number, requeue=True):
    """What training does when it stopped on a signal."""
    with pytest.raises(Interrupted), requeue_when_stopped(requeue):
        raise Interrupted(number)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_the_warning_of_the_end_queues_the_job_again(scontrol, number):
    stop(number)
    assert scontrol.calls() == ["requeue 42"]


def test_an_array_job_queues_its_own_task(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    stop(signal.SIGUSR1)
    assert scontrol.calls() == ["requeue 40_2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_scancel_and_ctrl_c_mean_it(scontrol, number, caplog):
    stop(number)
    assert scontrol.calls() == []
    assert "Not queued again" in caplog.text


def test_not_unless_asked_for_and_not_by_other_processes(scontrol, monkeypatch):
    stop(signal.SIGUSR1, requeue=False)
    monkeypatch.setattr("panoptic_dl.launch.signals.comm.is_main_process", lambda: False)
    stop(signal.SIGUSR1)
    assert scontrol.calls() == []


def test_a_refusal_is_a_warning_with_a_hint(scontrol, caplog):
    scontrol(1)
    stop(signal.SIGUSR1)
    assert scontrol.calls() == ["requeue 42"]
    assert "not allowed" in caplog.text
    assert "sbatch --requeue" in caplog.text


def test_no_scontrol_and_no_job_are_warnings_too(scontrol, caplog, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    stop(signal.SIGUSR1)
    assert "No such file" in caplog.text
    monkeypatch.delenv("SLURM_JOB_ID")
    stop(signal.SIGUSR1)
    assert "this is no SLURM job" in caplog.text


def test_other_ends_of_processes_do_not_disturb(scontrol, tmp_path):
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f"#!/bin/sh\nkill -TERM {os.getpid()}\necho done >> {tmp_path}/calls.txt\n")
    before = signal.getsignal(signal.SIGTERM)
    stop(signal.SIGUSR1)
    assert scontrol.calls() == ["done"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_submitit_is_notified_instead(scontrol, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    notified = []
    handler = lambda number, frame: notified.append(number)  # noqa: E731
    handler.__module__ = "submitit.core.job_environment"
    previous = signal.signal(signal.SIGUSR2, handler)
    try:
        stop(signal.SIGUSR2)
        stop(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert notified == [signal.SIGUSR2]
    assert scontrol.calls() == []


def test_processes_that_submitit_did_not_start_end_in_peace(scontrol, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")  # they inherit it
    with interruptible():
        stop(signal.SIGUSR2)
    assert scontrol.calls() == []
