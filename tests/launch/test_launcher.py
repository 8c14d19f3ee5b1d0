"""Numbers that cannot be are refused."""

import re
import socket
from datetime import timedelta

import pytest
from torch import distributed

from panoptic_dl.launch import launcher
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
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
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


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[007-009,012],big1", "gpu007"),
        ("rack[2-3]n[1,4-8]x,other", "rack2n1x"),
    ],
)
def test_slurm_says_where_to_meet(monkeypatch, nodes, first):
    """As `scontrol show hostnames` prints them; srun may be called on another machine."""
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    assert _meeting_point(2, 1, "auto") == f"tcp://{first}:23456"
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node3")
    assert _meeting_point(2, 1, "auto") == "tcp://node3:23456"
    assert re.fullmatch(r"tcp://127.0.0.1:\d+", _meeting_point(1, 0, "auto"))


def test_processes_that_others_start_must_find_together(tmp_path, monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    own = (str(tmp_path),)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(ValueError, match=r"16 processes on 2 machine.*--ntasks-per-node=1 --kill"):
        launch(note, *own, num_gpus=0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    launch(note, *own, num_gpus=0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match=r"Kubeflow.*launch.machine_rank=\$RANK"):
        launch(note, *own, num_gpus=0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    launch(note, *own, num_gpus=0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_group_is_taken_down_only_after_success(tmp_path, monkeypatch, fails):
    """With NCCL a process that has failed would wait there for the others, for half an hour."""
    port = _meeting_point(1, 0, "auto").rpartition(":")[2]
    facts = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    for name, value in (facts | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(launcher.comm, "create_local_process_group", lambda size: None)
    monkeypatch.setattr(launcher.comm, "get_local_rank", lambda: 0)
    destroy, calls = distributed.destroy_process_group, []
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: calls.append(destroy()))
    made, make = [], distributed.init_process_group
    monkeypatch.setattr(
        distributed, "init_process_group", lambda *a, **k: (made.append((a, k)), make(*a, **k))
    )

    def work(device):
        assert distributed.is_initialized()
        if fails:
            raise OSError("a torn image")
        return "done"

    if fails:
        with pytest.raises(OSError, match="torn"):
            launch(work, num_gpus=0, timeout_minutes=7)
        assert distributed.is_initialized()
        assert not calls
        destroy()
    else:
        assert launch(work, num_gpus=0, timeout_minutes=7) == "done"
        assert len(calls) == 1
    assert made == [(("gloo",), {"timeout": timedelta(minutes=7)})]
