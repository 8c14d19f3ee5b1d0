"""The doctor's two training steps and one evaluation step."""

import pytest

from tests.doctor.contexts import rows_in
from tests.runs import SMALL, in_process

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("dataset", "task"), [("toy_cityscapes", "panoptic"), ("toy_coco", "semantic")]
)
def test_a_toy_row_is_healthy_and_takes_its_steps(tmp_path, toy, capsys, dataset, task):
    overrides = [*SMALL, *toy[dataset], f"task={task}", "train.batch_size=4", "mode=doctor"]
    results = in_process(tmp_path, *overrides, "doctor.workers=1")
    assert next(iter(results["metrics"])) == "red"
    assert results["metrics"]["red"] == 0
    content, rows = rows_in(tmp_path)
    assert content["healthy"]
    assert content["row"] == f"{dataset}_{task}_hrnet_tiny_conv"
    assert rows["steps: training"]["found"].startswith("2 steps in ")
    assert "total_loss" in rows["steps: training"]["found"]
    assert rows["steps: evaluation"]["found"].startswith("1 image: ")
    assert not any(row["state"] in ("FAIL", "not checked") for row in rows.values())
    said = capsys.readouterr().out
    assert "steps\n  ok " in said
    assert "\x1b" not in said  # colors are for terminals
    assert not (tmp_path / "doctor").exists()
    assert not list(tmp_path.glob("*.pth"))
    table = (tmp_path / "doctor.md").read_text()
    assert table.startswith(f"# {content['row']}: ")
    assert "  ok    training " in table


def test_a_loss_that_is_not_finite_is_a_red_row(tmp_path, toy):
    overrides = [*SMALL, *toy["toy_cityscapes"], "train.batch_size=4", "mode=doctor"]
    poison = "head.panoptic.instance.center_loss_weight=nan"
    with pytest.raises(SystemExit) as stopped:
        in_process(tmp_path, *overrides, poison, "doctor.workers=1")
    assert stopped.value.code == 1
    _, rows = rows_in(tmp_path)
    assert rows["steps: training"]["state"] == "FAIL"
    assert "a loss or gradient is not finite" in rows["steps: training"]["found"]
    assert rows["steps: evaluation"]["state"] == "not checked"
    assert (tmp_path / "doctor" / "nonfinite.jsonl").is_file()
    assert not list((tmp_path / "doctor").glob("*.pth"))
