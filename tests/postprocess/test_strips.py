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

    found = in_strips(work, 20, 10, CPU)
    assert [(rows.start, rows.stop) for rows in found] == [
        (start, min(start + 3, 20)) for start in range(0, 20, 3)
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
