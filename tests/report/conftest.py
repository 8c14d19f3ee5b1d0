"""Runs of the published tables, of toys and of a user's own experiments."""

import math

import pytest

from panoptic_dl.report.runs import collect
from panoptic_dl.report.tables import build_tables

from .run_folders import make_run

CONV, DSCONV = "cityscapes_panoptic_xception65_conv", "cityscapes_panoptic_xception65_dsconv"
COCO = "coco_panoptic_hrnet48_dsconv"
NASTY = "<script>&|`*_\\%$#{}^~"


@pytest.fixture
def collected(tmp_path):
    for seed, pq in enumerate((62.1, 62.5, 63.5)):
        make_run(tmp_path / f"seed{seed}", CONV, seed=seed, metrics={"PQ": pq, "mIoU": 79.4})
    make_run(tmp_path / "below", DSCONV, metrics={"PQ": 60.0, "SQ": math.nan, "mIoU": 79.8})
    make_run(tmp_path / "new", COCO, metrics={"PQ": 38.6})
    old = {"recipe": "coco_panoptic_old"}
    make_run(tmp_path / "old", COCO, metrics={"PQ": 37.5}, choices=old, settings={"max_size": 640})
    make_run(tmp_path / "toy", "toy_cityscapes_panoptic_hrnet_tiny_conv", metrics={"PQ": 50.0})
    make_run(tmp_path / "broken", "toy_coco_panoptic_hrnet_tiny_conv", status="failed", metrics={})
    own = {"dataset": NASTY, "task": "panoptic", "backbone": NASTY, "head": "x"}
    make_run(tmp_path / "own", "mine_panoptic_net_x", metrics={"PQ": 1.0}, choices=own)
    return collect([tmp_path])


@pytest.fixture
def tables(collected):
    return build_tables(collected.runs, collected.benchmarks, all_published=True)
