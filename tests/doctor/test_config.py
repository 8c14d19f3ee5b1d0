"""Checks of a row and of the machine: each fault turns its own row red or yellow, with a cure."""

import pytest
import torch

from panoptic_dl.config import build
from tests.doctor.contexts import odd, row_context, rows_of

pytestmark = pytest.mark.thorough

# The crop of these tests is not the published one.
ALWAYS = {"crop": "warn"}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_healthy_row_is_green(root, task):
    results = rows_of(row_context(root, f"task={task}"))
    assert odd(results) == ALWAYS, results
    assert len(results) >= 16


@pytest.mark.parametrize(
    ("overrides", "row", "state", "said"),
    [
        (["train.batch_size=1"], "normalization", "FAIL", "norm=GN"),
        (["train.images_per_gpu=2"], "normalization", "warn", "norm=GN"),
        (["train.images_per_gpu=3"], "batch", "FAIL", "choose one of 1, 2, 4"),
        (["dataset.num_classes=20"], "classes", "FAIL", "dataset.num_classes=20"),
        (["dataset.thing_ids=[11,12]"], "classes", "FAIL", "dataset.thing_ids"),
        (["head.norm=NoSuchNorm"], "model", "FAIL", "norm='NoSuchNorm' is unknown"),
        (["weights=nowhere.pth"], "weights", "FAIL", "nowhere.pth: there is no such file"),
        (["pretrained={file: a.pth, source: b}"], "weights", "warn", " weights=a.pth (pre"),
        (["train.precision=fp16"], "device", "FAIL", "train.precision=fp16 needs a GPU"),
        (["train.num_workers=500"], "loader processes", "warn", "train.num_workers="),
        (["schedule.max_iters=1"], "optimizer", "FAIL", "schedule.max_iters=1 is shorter"),
        (["train.iterations=90000"], "length", "warn", "epochs of"),
        (["optimizer.lr=1"], "recipe", "warn", "optimizer.lr: 1"),
        (["optimizer.optimizer._target_=os.system"], "optimizer", "FAIL", "os.system is not among"),
        (["dataset.crop_size=[512,1000]"], "crop", "warn", "[512,1024]"),
    ],
)
def test_what_does_not_fit_is_said(root, overrides, row, state, said):
    if overrides[0].startswith("pretrained"):
        overrides = ["+" + overrides[0]]
    results = rows_of(row_context(root, *overrides))
    assert results[row].state.value == state, results
    result = results[row]
    assert said in " ".join([result.found, *result.problems, result.hint])
    others = {name for name, s in odd(results).items() if s == "FAIL"} - {row}
    assert not others


def test_what_needs_a_failed_check_is_not_green(root):
    results = rows_of(row_context(root, "head.norm=NoSuchNorm"))
    waiting = {name for name, state in odd(results).items() if state == "not checked"}
    needing = {"weights", "optimizer", "normalization", "crop", "memory", "disk", "recipe"}
    assert waiting == needing
    assert results["memory"].found == "needs row: model"


def test_weights_of_the_row_are_loaded_and_counted(root, tmp_path):
    model = build(row_context(root).parts["model"])()
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    context = row_context(root, f"weights={tmp_path / 'w.pth'}")
    result = rows_of(context)["weights"]
    assert result.state.value == "ok"
    assert "100.00 % of the values" in result.found
    name, value = next(iter(model.state_dict().items()))
    assert torch.equal(context.part("model").state_dict()[name], value)

    value[0] = float("nan")
    torch.save({"model": model.state_dict() | {name: value}}, tmp_path / "w.pth")
    result = rows_of(row_context(root, f"weights={tmp_path / 'w.pth'}"))["weights"]
    assert result.state.value == "FAIL"
    assert name in result.found

    torch.save({"model": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    result = rows_of(row_context(root, f"weights={tmp_path / 'w.pth'}"))["weights"]
    assert result.state.value == "FAIL"
    assert "another architecture" in result.found
