"""Memory: less than a step takes is a fault."""

from panoptic_dl.doctor import memory
from tests.doctor.contexts import row_context, rows_of


def test_memory_that_is_not_there(root, monkeypatch):
    needed = memory.estimate_memory(context := row_context(root)).total(4)
    monkeypatch.setattr(memory, "_available", lambda device: 3 * needed)
    assert rows_of(context)["memory"].state.value == "ok"
    monkeypatch.setattr(memory, "_available", lambda device: 1.15 * needed)
    assert rows_of(context)["memory"].state.value == "warn"
    monkeypatch.setattr(memory, "_available", lambda device: 0.95 * needed)
    result = rows_of(context)["memory"]
    assert result.state.value == "FAIL"
    assert "train.images_per_gpu=" in result.hint
