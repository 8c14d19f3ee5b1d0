"""Processes are started, hear of signals, and end together; numbers that cannot be are refused."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest


def start(what, folder, *machine):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.processes.launched", what, str(folder), *machine],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids(folder, process):
    """The children's process ids, once they are at work."""
    deadline = time.monotonic() + 120
    files = [folder / f"pid{rank}.txt" for rank in range(2)]
    while not all(file.is_file() and file.read_text() for file in files):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [int(file.read_text()) for file in files]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_signal_is_passed_on_and_the_exit_code_comes_back(tmp_path):
    number = signal.SIGUSR1
    process = start("wait", tmp_path)
    pids(tmp_path, process)
    process.send_signal(number)
    time.sleep(0.5)  # two at a time would be one
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert [(tmp_path / f"came{rank}.txt").read_text() for rank in range(2)] == [
        f"[{number:d}]"
    ] * 2


def test_children_of_a_killed_parent_are_gone_within_seconds(tmp_path):
    process = start("deaf", tmp_path)
    children = pids(tmp_path, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while any(map(alive, children)):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.2)


def test_the_failure_of_one_ends_all_with_its_code(tmp_path):
    process = start("fail", tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == 3
    assert not [*tmp_path.glob("destroyed*")]  # in NCCL this would wait for the other


@pytest.mark.parametrize(
    ("what", "end", "cause", "how"),
    [
        (
            "busy",
            lambda folder, pid: (folder / "raise").touch(),
            "ValueError: a torn image",
            "ended with exit code 1",
        ),
        (
            "stuck",
            lambda folder, pid: os.kill(pid, signal.SIGKILL),
            "was ended by SIGKILL",
            "was ended by SIGKILL: mostly memory ran out",
        ),
    ],
    ids=["an error", "a killed process that others wait for as in NCCL"],
)
def test_a_failure_on_one_machine_ends_the_other(tmp_path, what, end, cause, how):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    machines = [start(what, tmp_path, str(rank), url, "1") for rank in range(2)]
    children = pids(tmp_path, machines[0])
    end(tmp_path, children[1])
    deadline = time.monotonic() + 15
    for machine in machines:
        machine.wait(max(0.1, deadline - time.monotonic()))
    assert not any(map(alive, children))
    assert [machine.returncode for machine in machines] == [1, 1]
    assert cause in (tmp_path / "error.txt").read_text()
    told = (
        f"error: another process of the run is lost: machine 1 ({socket.gethostname()}): a process"
    )
    assert f"{told} {how}" in machines[0].stderr.read()
    assert cause.partition(": ")[2] in machines[1].stderr.read()
    assert not [*tmp_path.glob("destroyed*")]
