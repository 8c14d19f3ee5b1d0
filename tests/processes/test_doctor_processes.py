"""mode=doctor as a command: its exit code, and several processes."""

import json
import os

from tests.runs import SMALL, run


def rows_in(folder):
    content = json.loads((folder / "doctor.json").read_text())
    return {f"{r['group']}: {r['name']}": r for r in content["rows"]}


def test_a_missing_dataset_and_gpus_that_are_not_there(tmp_path):
    done = run(
        *(*SMALL, "dataset=coco", f"dataset.root={tmp_path}/nowhere", "mode=doctor"),
        *("launch.num_gpus=64", f"run_dir={tmp_path / 'run'}"),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    rows = rows_in(tmp_path / "run")
    red = {title for title, row in rows.items() if row["state"] == "FAIL"}
    assert red == {"set-up: device", "train data: layout", "val data: layout"}
    assert "launch.num_gpus=64, but this machine has" in rows["set-up: device"]["found"]
    assert "prepare_coco.py" in rows["train data: layout"]["cure"]
    assert f"{tmp_path}/nowhere" in rows["train data: layout"]["found"]


def test_two_processes_make_one_table(tmp_path, toy):
    done = run(
        *(*SMALL, *toy["toy_cityscapes"], "train.batch_size=4", "mode=doctor"),
        *("launch.num_cpu_processes=2", f"run_dir={tmp_path}"),
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines().count("set-up") == 1  # the table's, not the log's
    rows = rows_in(tmp_path)
    assert rows["row: batch"]["found"] == "4 images = 2 processes x 1 pass x 2"
    assert "NaiveSyncBatchNorm, statistics over 4 images" in rows["row: normalisation"]["found"]
    assert rows["steps: training"]["state"] == "ok"
    assert rows["steps: evaluation"]["found"].startswith("2 images: ")
