"""Processes are started, hear of signals, and end together; numbers that cannot be are refused."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from panoptic_dl.launch.launcher import launch
from tests.engine.launched import note


def start(what, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.launched", what, str(folder)],
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


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def test_two_machines_form_one_group(tmp_path):
    code = (
        "import sys; from tests.engine.launched import note, launch\n"
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


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_machines": 0}, "launch.num_machines=0 must be"),
        ({"num_machines": 2, "machine_rank": 2}, "launch.machine_rank=2: 2 machines have the"),
        ({"num_machines": 2}, "launch.dist_url=tcp://HOST:PORT"),
        ({"num_machines": 2, "dist_url": "host:1"}, "launch.dist_url=host:1 must be tcp://"),
        ({"num_machines": 2, "dist_url": "file:///x"}, "must be tcp://HOST:PORT"),
        ({"num_cpu_processes": 0}, "launch.num_cpu_processes=0 must be"),
        ({"num_gpus": 64}, "launch.num_gpus=64, but this machine has"),
    ],
)
def test_numbers_that_cannot_be(numbers, message, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match=message):
        launch(note, str(tmp_path), **{"num_gpus": 0, **numbers})


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as place:
        place.bind(("", 0))
        place.listen()
        url = f"tcp://127.0.0.1:{place.getsockname()[1]}"
        with pytest.raises(ValueError, match="cannot be used here"):
            launch(note, str(tmp_path), num_gpus=0, num_machines=2, dist_url=url)


def test_torchrun_and_numbers_of_machines_compete(tmp_path, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match="torchrun knows the machines"):
        launch(note, str(tmp_path), num_gpus=0, num_machines=2, dist_url="tcp://a:1")


def test_slurm_says_where_to_meet(monkeypatch):
    from panoptic_dl.launch.launcher import Machines

    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    assert Machines(2, 1, "auto").url == "tcp://10.0.0.7:23456"
    assert Machines(1, 0, "auto").url == "auto"
