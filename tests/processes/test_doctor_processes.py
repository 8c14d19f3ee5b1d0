"""mode=doctor as a command: its exit code, and several processes."""

import json

import pytest

from panoptic_dl.config import compose
from panoptic_dl.launch.launcher import launch
from panoptic_dl.run import work
from tests.runs import SMALL, command_line


def rows_in(folder):
    content = json.loads((folder / "doctor.json").read_text())
    return {f"{r['group']}: {r['name']}": r for r in content["rows"]}


def test_a_missing_dataset_and_gpus_that_are_not_there(tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        command_line(
            *(*SMALL, "dataset=coco", f"dataset.root={tmp_path}/nowhere", "mode=doctor"),
            *("launch.num_gpus=64", f"run_dir={tmp_path / 'run'}"),
        )
    assert stopped.value.code == 1
    assert "Traceback" not in "".join(capfd.readouterr())
    rows = rows_in(tmp_path / "run")
    red = {title for title, row in rows.items() if row["state"] == "FAIL"}
    assert red == {"set-up: device", "train data: layout", "val data: layout"}
    assert "launch.num_gpus=64, but this machine has" in rows["set-up: device"]["found"]
    assert "prepare_coco.py" in rows["train data: layout"]["hint"]
    assert f"{tmp_path}/nowhere" in rows["train data: layout"]["found"]


def test_two_processes_make_one_table(tmp_path, toy, capfd):
    config = compose(
        [
            *(*SMALL, *toy["toy_cityscapes"], "task=semantic", "train.batch_size=4"),
            *("mode=doctor", "doctor.workers=1", f"run_dir={tmp_path}"),
        ]
    )
    launch(work, config, (), num_gpus=0, num_cpu_processes=2)
    assert capfd.readouterr().out.splitlines().count("set-up") == 1  # the table's, not the log's
    rows = rows_in(tmp_path)
    assert rows["row: batch"]["found"] == "4 images = 2 processes x 1 pass x 2"
    assert "SyncBatchNorm, statistics over 4 images" in rows["row: normalization"]["found"]
    assert rows["steps: training"]["state"] == "ok"
    assert rows["steps: evaluation"]["found"].startswith("2 images: ")
