"""A tiny training that logs everything to W&B, and what its `.wandb` files hold."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from panoptic_dl.loggers.base import Confusions, Details
from panoptic_dl.loggers.wandb import WandbLogger, _read_records
from panoptic_dl.visualize.sheets import Sample
from tests.train.tiny_run import TinyEvaluation


def items(entries):
    """Nested keys joined by slashes; values as Python has them."""
    found = {}
    for entry in entries:
        key = "/".join(entry.nested_key) if entry.nested_key else entry.key
        found[key] = json.loads(entry.value_json) if entry.value_json else None
    return found


def read(file):
    """Of one attempt: run, config, history, summary, artifacts, exit code, whether preempted."""
    log = SimpleNamespace(
        run=None, config={}, history=[], summary={}, artifacts=[], exit=None, preempted=False
    )
    log.metrics, log.systems = [], 0
    for _, record in _read_records(Path(file)):
        kind = record.WhichOneof("record_type")
        body = getattr(record, kind) if kind else None
        if kind == "run":
            log.run = body
            log.config |= items(body.config.update)
        elif kind == "config":
            log.config |= items(body.update)
        elif kind == "history":
            log.history.append(items(body.item) | {"step": body.step.num})
        elif kind == "summary":
            log.summary |= items(body.update)
        elif kind == "artifact":
            log.artifacts.append(body)
        elif kind == "metric":
            log.metrics.append(body)
        elif kind == "exit":
            log.exit = body.exit_code
        elif kind == "preempting":
            log.preempted = True
        elif kind == "stats":
            log.systems += 1
    return log


def attempts(run_dir):
    """All that W&B has of a run folder, in the order of time."""
    return [read(file) for file in sorted(Path(run_dir).glob("wandb/*run-*-*/run-*.wandb"))]


def one(run_dir):
    (attempt,) = attempts(run_dir)
    return attempt


def media(run_dir, entry, key):
    """The file of an image or a table in a line of the history."""
    (folder,) = Path(run_dir).glob("wandb/*run-*-*/files")
    return folder / entry[f"{key}/path"]


NAMES = ("road", "car", "sky")


def wandb_logger(**changes):
    options = {"project": "tests", "name": "tiny", "init_timeout": 20.0, "finish_timeout": 20.0}
    return WandbLogger(**{**options, **changes})


def sample():
    truth = np.arange(12 * 16).reshape(12, 16) % 4 - 1  # -1 is void
    image = np.full((12, 16, 3), 200, np.uint8)
    return Sample("street", image, truth, np.zeros((12, 16), np.int64))


class Detailed(TinyEvaluation):
    """Figures that rise and fall, and all that comes with them."""

    def __call__(self, model, folder, **options):
        results = super().__call__(model, folder, **options)
        picture = folder / "worst.png"
        Image.new("RGB", (8, 8), (255, 0, 0)).save(picture)
        classes = {f"PQ-{name}": 10.0 * i for i, name in enumerate(NAMES)} | {"PQ-sky": np.nan}
        details = Details(
            results={"panoptic_seg": {"PQ": 1.0, **classes}},
            samples=[sample()],
            class_names=NAMES,
            confusions=Confusions(NAMES, np.arange(12).reshape(3, 4)),
            pictures=[picture],
        )
        figures = results["metrics"] | {"AP": float("nan")}
        return results | {"metrics": figures, "details": details}
