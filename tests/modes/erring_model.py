"""A model that errs, made of the truth, and what its evaluation saves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog

from panoptic_dl.config import build
from tests.evaluation.model_outputs import err

SIZES = {"toy_cityscapes": "[128,256]", "toy_coco": "[96,128]"}
NUM_IMAGES = 3


class Erring:
    """A model's outputs for batches of a loader, from the truth of a panoptic dataset."""

    def __init__(self, cfg) -> None:
        records = DatasetCatalog.get(build(cfg.dataset.test.panoptic))
        self.records = {record["file_name"]: record for record in records}
        self.numbers = cfg.dataset.num_classes, set(cfg.dataset.thing_ids)
        self.names: list[str] = []

    def __call__(self, batch):
        self.names += [item["file_name"] for item in batch]
        return [
            err(
                self.records[item["file_name"]],
                *self.numbers,
                np.random.default_rng(len(item["file_name"]) + sum(map(ord, item["file_name"]))),
            )
            for item in batch
        ]


def saved(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())
