"""Rows of sweeps: made by hand, small ones to be run, and read."""

import json
from pathlib import Path
from typing import Any

QUIET = ["evaluation.picture_count=0", "evaluation.best_and_worst=0", "evaluation.charts=false"]


def write_run(folder: Path, status: str, **more: Any) -> Path:
    """The folder of a training with a run.json and an empty log."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "format": 1,
        "mode": "train",
        "status": status,
        "config_hash": "a",
        "attempts": [{"started": "2026-01-01T00:00:00+00:00", "seconds": 3671.4}],
        "train": {"iterations": 9},
        "wall_seconds": 3671.4,
        **more,
    }
    (folder / "run.json").write_text(json.dumps(state))
    (folder / "log.txt").touch()
    return folder


def states(sweep: Path) -> dict[str, dict[str, Any]]:
    """The run.json of each row, by the name of its folder."""
    return {f.parent.name: json.loads(f.read_text()) for f in sweep.glob("*/run.json")}
