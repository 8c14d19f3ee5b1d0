"""Modes in processes of their own: two processes evaluate and analyze as one, sweeps, locks."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from PIL import Image

from tests.modes.error_scenes import (
    EXPECTED,
    NUM_IMAGES,
    SHARDS,
    best_and_worst,
    make_dataset,
    names,
    offer_all,
)
from tests.modes.small_runs import BENCHMARK, small_coco
from tests.runs import SMALL, in_process, multirun, run
from tests.train.tiny_run import run_training


def test_one_run_at_a_time_in_a_folder(tmp_path):
    holder = "from panoptic_dl.core.files import folder_lock; from pathlib import Path;"
    code = (
        f"{holder}\nwith folder_lock(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=r"in use by another process.*another run_dir"):
        run_training(tmp_path)
    other.kill()
    other.wait()
    run_training(tmp_path, iterations=1)
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.slow
def test_fast_dev_run_in_two_processes(tmp_path, toy):
    done = run(
        *SMALL,
        *toy["toy_cityscapes"],
        "dataset.root.num_val=6",
        "train.fast_dev_run=true",
        "train.iterations=1",
        "train.ema=0.9",
        "evaluation.charts=false",
        "evaluation.best_and_worst=1",
        "launch.num_cpu_processes=2",
        f"run_dir={tmp_path}",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "fast_dev_run" / "results.json").read_text())
    assert summary["no_result"] == "fast_dev_run: 4 of 6 images, no result"


def test_a_sweep_ends_in_one_table(tmp_path, capsys):
    options = ["benchmark.iterations=1", "head=conv,dsconv", f"hydra.sweep.dir={tmp_path}"]
    multirun(*BENCHMARK, *options)
    table = (tmp_path / "benchmark.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| toy_")]
    assert [row.split()[1].rpartition("_")[2] for row in rows] == ["conv", "dsconv"]
    assert len(json.loads((tmp_path / "benchmark.json").read_text())) == 2
    assert (tmp_path / "benchmark.png").is_file()


def test_analyze_in_two_processes(tmp_path):
    overrides = small_coco(tmp_path / "coco")
    alone = in_process(tmp_path / "analyze", "mode=analyze", *overrides)
    command = ["mode=analyze", *overrides, "launch.num_cpu_processes=2", f"run_dir={tmp_path}/two"]
    done = run(*command, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = json.loads((tmp_path / "two" / "analysis.json").read_text())
    usual = json.loads((tmp_path / "analyze" / "analysis.json").read_text())
    assert saved == usual
    assert saved["num_images"] == 3
    assert saved["combinations"][-1]["metrics"]["PQ"] > 50
    assert alone["combinations"][-1]["gain"] > 50
    assert "limits this model" in done.stdout
    assert "|   truth    |  truth   |  truth   |" in done.stdout
    with Image.open(tmp_path / "two" / "analysis.png") as picture:
        assert picture.width > 1000


def draw_in_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    dataset = make_dataset(Path(folder))
    for name, shards in SHARDS.items():
        pictures = best_and_worst(dataset, 2, Path(folder) / name)
        offer_all(pictures, shards[rank])
        sheets = [sheet.name for sheet in pictures.draw({}, []).pictures]
        assert sheets == ([] if rank else ["worst.png", "best.png"])
    torch.distributed.destroy_process_group()


def test_two_processes_draw_what_one_does(tmp_path):
    alone = best_and_worst(make_dataset(tmp_path), 2, tmp_path / "alone")
    offer_all(alone, range(NUM_IMAGES))
    alone.draw({}, [])
    torch.multiprocessing.start_processes(
        draw_in_two, args=(str(tmp_path),), nprocs=2, start_method="fork"
    )
    for name in SHARDS:
        folders = [tmp_path / place / "pictures" for place in (name, "alone")]
        assert names(folders[0]) == names(folders[1]) == EXPECTED
        for file in EXPECTED:
            files = [folder / file for folder in folders]
            assert files[0].read_bytes() == files[1].read_bytes()
