"""Checks of a row and of the machine: each fault turns its own row red or yellow, with a cure."""

import shutil
from collections import namedtuple

import pytest
import torch
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.doctor import machine as packages
from panoptic_dl.doctor import memory
from panoptic_dl.doctor.context import Patient, make_checks
from panoptic_dl.doctor.doctor import data_checks, row_checks, set_up_checks

from ..test_run import SMALL
from .broken import write_healthy

GREEN = ["train.batch_size=4", "recipe_record.batch_size=4", "recipe_record.iterations=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_healthy(tmp_path_factory.mktemp("rows"), "cityscapes")


def patient_of_row(root, *overrides):
    """As `mode=doctor` would make it, with both splits registered."""
    config = compose(
        [*SMALL, "mode=doctor", "dataset=cityscapes", f"dataset.root={root}", *GREEN, *overrides]
    )
    config.run_dir = str(root / "run")
    node = OmegaConf.to_container(config.mode, resolve=True)
    del node["_target_"]
    arguments = build(node)
    arguments["settings"] = DoctorSettings(**arguments["settings"])
    return Patient(device="cpu", **arguments)


def rows_of(patient):
    layouts = [check for check in data_checks() if check.name == "layout"]
    rows = make_checks([*set_up_checks(), *layouts, *row_checks()], patient)
    return {row.name: row.verdict for row in rows}


def odd(verdicts):
    return {name: v.state.value for name, v in verdicts.items() if v.state.value != "ok"}


# The crop of these tests is not the published one.
ALWAYS = {"crop": "warn"}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_healthy_row_is_green(root, task):
    verdicts = rows_of(patient_of_row(root, f"task={task}"))
    assert odd(verdicts) == ALWAYS, verdicts
    assert len(verdicts) >= 16


@pytest.mark.parametrize(
    ("overrides", "row", "state", "said"),
    [
        (["train.batch_size=1"], "normalisation", "FAIL", "norm=GN"),
        (["train.images_per_gpu=2"], "normalisation", "warn", "norm=GN"),
        (["train.images_per_gpu=3"], "batch", "FAIL", "choose 1, 2 or 4"),
        (["dataset.num_classes=20"], "classes", "FAIL", "dataset.num_classes=20"),
        (["dataset.thing_ids=[11,12]"], "classes", "FAIL", "dataset.thing_ids"),
        (["dataset.ignore_label=254"], "classes", "FAIL", "ignore_label=254"),
        (["head.norm=NoSuchNorm"], "model", "FAIL", "norm='NoSuchNorm' is unknown"),
        (["weights=nowhere.pth"], "weights", "FAIL", "nowhere.pth: there is no such file"),
        (["pretrained={file: a.pth, source: b}"], "weights", "warn", "convert_weights.py a.pth"),
        (["train.precision=fp16"], "device", "FAIL", "train.precision=fp16 needs a GPU"),
        (["train.num_workers=500"], "loader processes", "warn", "train.num_workers="),
        (["schedule.max_iters=1"], "optimizer", "FAIL", "schedule.max_iters=1 is shorter"),
        (["optimizer.lr=1"], "recipe", "warn", "optimizer.lr: 1"),
        (["optimizer.optimizer._target_=os.system"], "optimizer", "FAIL", "os.system is not among"),
        (["dataset.crop_size=[512,1000]"], "crop", "warn", "[512,1024]"),
    ],
)
def test_what_does_not_fit_is_said(root, overrides, row, state, said):
    if overrides[0].startswith("pretrained"):
        overrides = ["+" + overrides[0]]
    verdicts = rows_of(patient_of_row(root, *overrides))
    assert verdicts[row].state.value == state, verdicts
    verdict = verdicts[row]
    assert said in " ".join([verdict.found, *verdict.problems, verdict.cure])
    others = {name for name, s in odd(verdicts).items() if s == "FAIL"} - {row}
    assert not others


def test_what_needs_a_failed_check_is_not_green(root):
    verdicts = rows_of(patient_of_row(root, "head.norm=NoSuchNorm"))
    waiting = {name for name, state in odd(verdicts).items() if state == "not checked"}
    needing = {"weights", "optimizer", "normalisation", "crop", "memory", "disk", "recipe"}
    assert waiting == needing
    assert verdicts["memory"].found == "needs row: optimizer"


def test_weights_of_the_row_are_loaded_and_counted(root, tmp_path):
    model = build(patient_of_row(root).parts["model"])()
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    patient = patient_of_row(root, f"weights={tmp_path / 'w.pth'}")
    verdict = rows_of(patient)["weights"]
    assert verdict.state.value == "ok"
    assert "100.00 % of the values" in verdict.found
    name, value = next(iter(model.state_dict().items()))
    assert torch.equal(patient.part("model").state_dict()[name], value)

    value[0] = float("nan")
    torch.save({"model": model.state_dict() | {name: value}}, tmp_path / "w.pth")
    verdict = rows_of(patient_of_row(root, f"weights={tmp_path / 'w.pth'}"))["weights"]
    assert verdict.state.value == "FAIL"
    assert name in verdict.found

    torch.save({"model": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    verdict = rows_of(patient_of_row(root, f"weights={tmp_path / 'w.pth'}"))["weights"]
    assert verdict.state.value == "FAIL"
    assert "another architecture" in verdict.found


def test_processes_that_cannot_start_are_a_row(root):
    patient = patient_of_row(root)
    patient.launch_refused = "launch.num_gpus=8, but this machine has 0"
    verdicts = rows_of(patient)
    assert verdicts["device"].state.value == "FAIL"
    assert "num_gpus=8" in verdicts["device"].found
    assert verdicts["batch"].state.value == "not checked"
    assert verdicts["normalisation"].state.value == "not checked"


def test_memory_that_is_not_there(root, monkeypatch):
    needed = memory.estimate_memory(patient := patient_of_row(root)).total(4)
    monkeypatch.setattr(memory, "available", lambda device: 3 * needed)
    assert rows_of(patient)["memory"].state.value == "ok"
    monkeypatch.setattr(memory, "available", lambda device: 1.15 * needed)
    assert rows_of(patient)["memory"].state.value == "warn"
    monkeypatch.setattr(memory, "available", lambda device: 0.95 * needed)
    verdict = rows_of(patient)["memory"]
    assert verdict.state.value == "FAIL"
    assert "train.images_per_gpu=" in verdict.cure


def test_no_room_on_the_disk_and_in_shared_memory(root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 1000))
    verdicts = rows_of(patient_of_row(root, "train.num_workers=2"))
    assert verdicts["disk"].state.value == "FAIL"
    assert "checkpoint.kept=1" in verdicts["disk"].cure
    assert verdicts["shared memory"].state.value == "FAIL"
    assert "train.num_workers=0" in verdicts["shared memory"].cure


def test_packages_of_other_versions(root, monkeypatch):
    asked = ["numpy>=99", "no-such-package", "torch", "pytest>99; extra == 'dev'"]
    monkeypatch.setattr(packages.metadata, "requires", lambda name: asked)
    verdict = rows_of(patient_of_row(root))["packages"]
    assert verdict.state.value == "FAIL"
    assert len(verdict.problems) == 2
    assert verdict.cure == "make setup"


def test_doctor_settings_are_checked():
    for name in ("sample", "workers"):
        for value in (0, -1, 1.5, "all", True):
            with pytest.raises(ValueError, match=f"doctor.{name}="):
                DoctorSettings(**{"sample": None, "workers": None, "steps": True, name: value})
