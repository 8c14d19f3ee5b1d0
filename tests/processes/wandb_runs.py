"""A tiny training that logs everything to W&B, and what its `.wandb` files hold."""

import json
from pathlib import Path
from types import SimpleNamespace

from panoptic_dl.loggers.wandb import WandbLogger, _read_records


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
    """The file of an image in a line of the history."""
    (folder,) = Path(run_dir).glob("wandb/*run-*-*/files")
    return folder / entry[f"{key}/path"]


def wandb_logger(**changes):
    options = {"project": "tests", "name": "tiny", "init_timeout": 20.0, "finish_timeout": 20.0}
    return WandbLogger(**{**options, **changes})
