"""Strips of rows: each once, in order, in as many threads as PyTorch has, whose number stays."""

import threading

import pytest
import torch

from panoptic_dl.postprocess import semantic as strips
from panoptic_dl.postprocess.semantic import in_strips

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_all_rows_once_in_two_threads(monkeypatch):
    monkeypatch.setitem(strips.ENTRIES, "cpu", 30)
    meeting = threading.Barrier(2, timeout=20)
    threads, settings = set(), set()

    def work(rows):
        if rows.start in (0, 3):  # as long as both threads have not begun, none goes on
            meeting.wait()
        threads.add(threading.get_ident())
        settings.add((torch.get_num_threads(), torch.is_grad_enabled()))
        return rows

    found = in_strips(work, 23, 10, CPU)
    assert [(rows.start, rows.stop) for rows in found] == [
        (start, min(start + 3, 23)) for start in range(0, 23, 3)
    ]
    assert len(threads) == 2
    assert settings == {(1, False)}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_a_strip_is_raised(monkeypatch):
    monkeypatch.setitem(strips.ENTRIES, "cpu", 1)

    def work(rows):
        if rows.start == 5:
            raise ValueError("row 5")

    with pytest.raises(ValueError, match="row 5"):
        in_strips(work, 20, 1, CPU)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_strips_may_write_to_tensors_of_inference_mode(monkeypatch):
    monkeypatch.setitem(strips.ENTRIES, "cpu", 1)
    with torch.inference_mode():
        ours = torch.zeros(8)

        def work(rows):
            ours[rows] = ours[rows] + rows.start

        in_strips(work, 8, 1, CPU)
    assert ours.tolist() == list(range(8))


def test_no_rows():
    assert in_strips(lambda rows: rows, 0, 10, CPU) == []


@pytest.mark.usefixtures("two_threads")
def test_calls_of_several_threads_leave_the_number_as_it_was(monkeypatch):
    """The second one begins and ends within the first one, or after it has ended."""
    monkeypatch.setitem(strips.ENTRIES, "cpu", 10)
    inside, ended = threading.Barrier(2, timeout=20), threading.Event()
    found = []

    def first(rows):
        if rows.start == 0:
            inside.wait()

    def second(rows):
        if rows.start == 0:
            inside.wait()
            ended.wait(20)

    def call(work):
        in_strips(work, 1, 10, CPU)
        ended.set()
        found.append(torch.get_num_threads())

    for works in ((first, second), (second, first)):
        ended.clear()
        callers = [threading.Thread(target=call, args=(work,)) for work in works]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2] * 5


@pytest.mark.usefixtures("two_threads")
def test_strips_of_a_strip_take_no_more_threads(monkeypatch):
    monkeypatch.setitem(strips.ENTRIES, "cpu", 10)

    def inner(rows):
        return rows.start, threading.get_ident()

    for own, others in zip(
        in_strips(lambda rows: threading.get_ident(), 1, 10, CPU),
        in_strips(lambda rows: in_strips(inner, 3, 10, CPU), 1, 10, CPU),
        strict=True,
    ):
        assert others == [(0, own), (1, own), (2, own)]


@pytest.mark.usefixtures("two_threads")
def test_few_strips_start_no_thread(monkeypatch):
    monkeypatch.setitem(strips.ENTRIES, "cpu", 30)
    assert {*in_strips(lambda rows: threading.get_ident(), 20, 10, CPU)} == {threading.get_ident()}
