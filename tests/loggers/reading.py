"""What a `.wandb` file holds, read with wandb's own description of its records."""

import json
from pathlib import Path
from types import SimpleNamespace

from wandb.proto import wandb_internal_pb2

from panoptic_dl.loggers.wandb import records


def items(entries):
    """Nested keys joined by slashes; values as Python has them."""
    found = {}
    for entry in entries:
        key = "/".join(entry.nested_key) if entry.nested_key else entry.key
        found[key] = json.loads(entry.value_json) if entry.value_json else None
    return found


def read(file):
    """Of one attempt: run, config, history, summary, artifacts, exit code, whether preempted."""
    told = SimpleNamespace(
        run=None, config={}, history=[], summary={}, artifacts=[], exit=None, preempted=False
    )
    told.metrics, told.systems = [], 0
    for data in records(Path(file).read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        body = getattr(record, kind) if kind else None
        if kind == "run":
            told.run = body
            told.config |= items(body.config.update)
        elif kind == "config":
            told.config |= items(body.update)
        elif kind == "history":
            told.history.append(items(body.item) | {"step": body.step.num})
        elif kind == "summary":
            told.summary |= items(body.update)
        elif kind == "artifact":
            told.artifacts.append(body)
        elif kind == "metric":
            told.metrics.append(body)
        elif kind == "exit":
            told.exit = body.exit_code
        elif kind == "preempting":
            told.preempted = True
        elif kind == "stats":
            told.systems += 1
    return told


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
