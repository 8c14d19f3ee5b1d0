"""Runs of the toy, composed as on a command line, with all loggers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.config import ConfigError, compose
from tests.runs import SMALL, in_process

from .reading import media, one


def test_a_training_and_an_evaluation_of_its_weights(tmp_path, toy):
    run_dir = tmp_path / "train"
    overrides = [*SMALL, *toy["toy_cityscapes"]]
    trained = in_process(run_dir, *overrides, "logger=[tensorboard,wandb,csv]")
    assert list(run_dir.glob("events.out.tfevents*"))
    with (run_dir / "figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["0", "1", "1"]
    told = one(run_dir)
    assert told.run.display_name == "toy_cityscapes_panoptic_hrnet_tiny_conv"
    (entry,) = [e for e in told.history if "eval/PQ" in e]
    for name, value in trained["metrics"].items():
        assert entry[f"eval/{name}"] == pytest.approx(value, nan_ok=True)
    keys = {key.rpartition("/")[0] for key in entry}
    assert {
        *("images/validation", "charts/confusions_table", "charts/PQ_by_class_table"),
        *("classes/Panoptic_quality_by_class", "classes/Semantic_segmentation_by_class"),
        *("pictures/predictions", "pictures/worst", "pictures/best", "pictures/confusions"),
    } <= keys
    table = json.loads(media(run_dir, entry, "classes/Panoptic_quality_by_class").read_text())
    assert (table["columns"][0], len(table["data"])) == ("name", 19)

    # Masks of the truth are the dataset's own.
    (root,) = [o for o in overrides if o.startswith("dataset.root.root=")]
    cache = Path(root.partition("=")[2])
    (files,) = run_dir.glob("wandb/*run-*-*/files")
    assert len(entry["images/validation/captions"]) == 2
    for name, masks in zip(
        entry["images/validation/captions"], entry["images/validation/all_masks"], strict=True
    ):
        stem = name.removesuffix("_leftImg8bit") + "_gtFine_labelTrainIds.png"
        file = next(cache.rglob(stem))
        truth = np.asarray(Image.open(file))
        shown = np.asarray(Image.open(files / masks["ground_truth"]["path"]))
        assert (shown == truth).all()
        predicted = np.asarray(Image.open(files / masks["prediction"]["path"]))
        assert predicted.shape == truth.shape
        assert set(np.unique(predicted)) <= {*range(19), 255}

    evaluated = [*overrides, "mode=eval", "logger=wandb", f"weights={run_dir}/model_final.pth"]
    in_process(tmp_path / "eval", *evaluated)
    alone = one(tmp_path / "eval")
    assert alone.run.job_type == "eval"
    assert alone.summary["PQ/last"] == told.summary["PQ/last"]
    assert alone.exit == 0


def test_a_benchmark(tmp_path):
    small = [
        "mode=benchmark",
        *SMALL[:7],
        "benchmark.image_size=[64,128]",
        "benchmark.iterations=1",
    ]
    numbers = [f"benchmark.{name}=1" for name in ("num_scenes", "warmup", "iterations")]
    overrides = [*small, *numbers, "logger=[csv,wandb]"]
    results = in_process(tmp_path, *overrides)
    told = one(tmp_path)
    assert told.run.job_type == "benchmark"
    assert told.summary["benchmark/total ms"] == pytest.approx(results["metrics"]["total ms"])
    assert told.summary["benchmark/GMACs"] == pytest.approx(results["GMACs"])
    assert not (tmp_path / "figures.csv").exists()


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ([], ["tensorboard"]),
        (["logger=wandb"], ["wandb"]),
        (["logger=[wandb,csv]", "logger.wandb.log_checkpoints=best"], ["wandb", "csv"]),
        (["logger=[]"], []),
        (["logger=none"], []),
    ],
)
def test_choices(override, names):
    assert list(compose(override).logger) == names


def test_a_logger_that_was_not_chosen_has_no_options():
    with pytest.raises(ConfigError, match=r"logger\.wandb\.project"):
        compose(["logger.wandb.project=mine"])
