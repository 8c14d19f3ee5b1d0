"""Machines meet if they fit together, and hear when another one is lost."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.run_folder import ExitCode, Requeued
from panoptic_dl.launch import machines as module
from panoptic_dl.launch.machines import LostMachine, Machines
from panoptic_dl.launch.session import exit_status


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(module, "HEAD_START", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def meet(url, *places, minutes=1):
    """What becomes of the launchers of machines with these ranks and numbers of processes."""

    def come(rank, processes):
        try:
            return Machines(url, rank, len(places), processes, minutes)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(come, *zip(*places, strict=True)))


def end_of(machine, error=None):
    """Leave with an error, as a launcher does."""
    with contextlib.suppress(Exception, SystemExit), machine:
        if error is not None:
            raise error


def lost(machine):
    """What a machine hears within a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            machine.check()
        except LostMachine as error:
            return error
        time.sleep(0.01)
    return None


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0, 8), (1, 4)], "of 2 machines came [0, 1], with [8, 4] processes"),
        ([(0, 8), (1, 8), (1, 8)], "of 3 machines came [0, 1, 1], with [8, 8, 8] processes"),
    ],
)
def test_machines_that_do_not_fit_are_told_at_once(url, places, message):
    answers = meet(url, *places)
    assert all(answer.startswith(message) for answer in answers), answers


def test_those_that_do_not_come_are_named_when_time_is_up(url):
    with pytest.raises(ValueError, match=r"of 2 machines came \[0\], .* within 0.01 minutes"):
        Machines(url, 0, 2, 1, 0.01)
    with pytest.raises(ValueError, match=r"machine 0 is not at tcp://127.0.0.1"):
        Machines(url, 1, 2, 1, 0.001)


def test_a_stranger_at_the_port_does_not_count(url):
    def disturb():
        with contextlib.suppress(OSError):
            port = int(url.rpartition(":")[2])
            time.sleep(0.1)
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")

    stranger = threading.Thread(target=disturb)
    stranger.start()
    pair = meet(url, (0, 1), (1, 1))
    stranger.join()
    assert all(isinstance(each, Machines) for each in pair), pair
    for each in pair:
        end_of(each)


def test_the_port_is_free_again_for_the_processes(url):
    pair = meet(url, (0, 1), (1, 1))
    socket.create_server(("", int(url.rpartition(":")[2]))).close()
    for each in pair:
        end_of(each)


def test_a_failure_reaches_every_machine_with_its_exit_code(url):
    first, second, third = meet(url, (0, 1), (1, 1), (2, 1))
    failed = ProcessExitedException("", 0, 1, ExitCode.DIVERGED)
    ending = threading.Thread(target=end_of, args=(second, failed))
    ending.start()
    for machine in (first, third):  # the first passes it on
        error = lost(machine)
        assert "lost: machine 1 (" in str(error)
        assert exit_status(error) == ("failed", ExitCode.DIVERGED)
    ending.join(0.3)
    assert ending.is_alive()  # until machine 0 has ended
    end_of(first, error)
    ending.join(5)
    assert not ending.is_alive()


def test_a_machine_that_is_gone_is_lost_whatever_happened_there(url):
    first, second = meet(url, (0, 1), (1, 1))
    for peer in second._names:
        peer.close()
    assert str(lost(first)).endswith(") is gone: killed, or without power or network")
    first, second = meet(url, (0, 1), (1, 1))
    for peer in first._names:
        peer.close()
    assert "machine 0 (127.0.0.1) is gone" in str(lost(second))


def test_a_failure_right_after_the_meeting_is_told(url):
    """Both messages of machine 0 may be there at once."""
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))) as server:

        def tell():
            peer, _ = server.accept()
            with peer:
                peer.recv(500)
                peer.sendall(b"go\n76 machine 0 (a): a process ended with exit code 76\n")

        telling = threading.Thread(target=tell)
        telling.start()
        machine = Machines(url, 1, 2, 1, 1)
        telling.join()
        assert lost(machine).exit_code == ExitCode.DIVERGED
        end_of(machine)


def test_who_has_finished_is_not_lost(url):
    first, second = meet(url, (0, 1), (1, 1))
    end_of(second)
    assert lost(first) is None


@pytest.mark.parametrize("stopped", [ProcessExitedException("", 0, 1, ExitCode.SAVED), Requeued(0)])
def test_a_run_that_was_stopped_may_save_and_queue_again_before_machines_end(
    url, monkeypatch, stopped
):
    """Machine 1 waits for machine 0: SLURM kills a job's tasks as soon as one has failed."""
    first, second = meet(url, (0, 1), (1, 1))
    ending = threading.Thread(target=end_of, args=(second, stopped))
    ending.start()
    assert lost(first) is None
    assert ending.is_alive()
    end_of(first, stopped)
    ending.join(5)
    assert not ending.is_alive()
    first, second = meet(url, (0, 1), (1, 1))
    monkeypatch.setattr(module, "GRACE_OF_SAVED", 0.1)
    threading.Thread(target=end_of, args=(second, stopped)).start()
    assert lost(first).exit_code == ExitCode.SAVED  # it was stopped alone
    end_of(first)
