"""mode=doctor as a user runs it: the table, the files, the exit code."""

import shutil

import pytest

from tests.doctor.broken import image_of, write_healthy
from tests.doctor.contexts import rows_in
from tests.runs import SMALL, in_process

pytestmark = pytest.mark.thorough


def test_a_red_row_is_exit_code_1_with_its_hint(tmp_path, capsys):
    root = write_healthy(tmp_path / "data", "coco")
    image_of(root).write_bytes(b"torn")
    overrides = [*SMALL, "dataset=coco", f"dataset.root={root}", "train.batch_size=4"]
    with pytest.raises(SystemExit) as stopped:
        in_process(tmp_path / "run", *overrides, "mode=doctor", "doctor.workers=2")
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    red = [index for index, line in enumerate(lines) if line.startswith("  FAIL ")]
    assert len(red) == 1
    assert "images" in lines[red[0]]
    assert f"- cannot read {image_of(root)} (truncated or damaged" in lines[red[0] + 1]
    assert f"hint: unzip -o train2017.zip -d {root}/coco" in lines[red[0] + 2]
    content, rows = rows_in(tmp_path / "run")
    assert not content["healthy"]
    assert rows["steps: training"]["state"] == "not checked"
    needed = "needs train data: images"
    assert rows["steps: training"]["found"].startswith(needed)


@pytest.mark.slow
def test_real_coco(tmp_path):
    from tests.test_real_coco import DATA

    if DATA is None:
        pytest.skip("needs COCO: set DETECTRON2_DATASETS")
    overrides = ["dataset=coco", f"dataset.root={DATA}", "backbone=hrnet_tiny", "mode=doctor"]
    in_process(tmp_path, *overrides, "train.batch_size=4", "train.num_workers=1")
    _, rows = rows_in(tmp_path)
    assert not any(row["state"] in ("FAIL", "not checked") for row in rows.values())
    assert rows["steps: training"]["state"] == "ok"


def test_a_run_folder_without_room_still_has_its_table(tmp_path, toy, capsys, monkeypatch):
    def full(file, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("panoptic_dl.doctor.doctor.write_text", full)
    overrides = [*SMALL, *toy["toy_coco"], "mode=doctor", "doctor.steps=false"]
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    results = in_process(tmp_path / "run", *overrides, "doctor.workers=1")
    assert results["metrics"]["red"] == 0
    assert "both splits\n" in capsys.readouterr().out
    assert "cannot be saved" in (tmp_path / "run" / "log.txt").read_text()
