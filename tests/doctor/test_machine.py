"""The machine: each lack is a fault of its own check, with a hint."""

import shutil
from collections import namedtuple

from panoptic_dl.doctor import machine
from tests.doctor.contexts import row_context, rows_of


def test_processes_that_cannot_start_are_a_row(root):
    context = row_context(root)
    context.launch_refused = "launch.num_gpus=8, but this machine has 0"
    results = rows_of(context)
    assert results["device"].state.value == "FAIL"
    assert "num_gpus=8" in results["device"].found
    assert results["batch"].state.value == "not checked"
    assert results["normalization"].state.value == "not checked"


def test_no_room_on_the_disk_and_in_shared_memory(root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 1000))
    results = rows_of(row_context(root, "train.num_workers=2"))
    assert results["disk"].state.value == "FAIL"
    assert "checkpoint.kept=1" in results["disk"].hint
    assert results["shared memory"].state.value == "FAIL"
    assert "train.num_workers=0" in results["shared memory"].hint


def test_packages_of_other_versions(root, monkeypatch):
    asked = ["numpy>=99", "no-such-package", "torch", "pytest>99; extra == 'dev'"]
    monkeypatch.setattr(machine.metadata, "requires", lambda name: asked)
    result = rows_of(row_context(root))["packages"]
    assert result.state.value == "FAIL"
    assert len(result.problems) == 2
    assert result.hint == "make setup"


def test_memory_that_is_not_there(root, monkeypatch):
    fixed, per_image = machine.estimate_step(context := row_context(root))
    needed = fixed + 4 * per_image
    monkeypatch.setattr(machine, "_available", lambda device: 3 * needed)
    assert rows_of(context)["memory"].state.value == "ok"
    monkeypatch.setattr(machine, "_available", lambda device: 1.15 * needed)
    assert rows_of(context)["memory"].state.value == "warn"
    monkeypatch.setattr(machine, "_available", lambda device: 0.95 * needed)
    result = rows_of(context)["memory"]
    assert result.state.value == "FAIL"
    assert "train.images_per_gpu=" in result.hint
