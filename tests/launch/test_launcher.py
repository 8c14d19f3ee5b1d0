"""Numbers that cannot be are refused."""

import socket

import pytest

from panoptic_dl.launch.launcher import _meeting_point, launch
from tests.processes.launched import note


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
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    assert _meeting_point(2, 1, "auto") == "tcp://10.0.0.7:23456"
    assert _meeting_point(1, 0, "auto") == "auto"
