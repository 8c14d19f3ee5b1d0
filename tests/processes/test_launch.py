"""Processes are started, hear of signals, and end together; numbers that cannot be are refused."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import free_port


def start(what, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.processes.launched", what, str(folder)],
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_passed_on_and_the_exit_code_comes_back(tmp_path, number):
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


def test_ctrl_c_without_a_terminal_is_a_request_too(tmp_path):
    process = start("wait", tmp_path)
    pids(tmp_path, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert (tmp_path / "came0.txt").read_text() == f"[{signal.SIGTERM:d}]"


@pytest.mark.parametrize("what", ["wait", "deaf"])
def test_children_of_a_killed_parent_are_gone_within_seconds(tmp_path, what):
    process = start(what, tmp_path)
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


def test_two_machines_form_one_group(tmp_path):
    code = (
        "import sys; from tests.processes.launched import note, launch\n"
        "launch(note, sys.argv[1], num_gpus=0, num_cpu_processes=1, num_machines=2,\n"
        "       machine_rank=int(sys.argv[2]), dist_url=sys.argv[3])"
    )
    url = f"tcp://127.0.0.1:{free_port()}"
    machines = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(rank), url])
        for rank in range(2)
    ]
    assert [machine.wait(timeout=180) for machine in machines] == [0, 0]
    for rank in range(2):
        assert (tmp_path / f"rank{rank}.txt").read_text() == f"{rank} of 2, here 0, cpu"
