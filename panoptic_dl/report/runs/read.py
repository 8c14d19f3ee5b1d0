"""Read a run's folder."""

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from panoptic_dl.folder_lock import is_alive

from .fields import Fields, read_json
from .run import Attempt, Run
from .settings import read_settings

FORMAT = 1
STATUSES = ("running", "finished", "stopped", "failed")


def read_run(folder: Path, label: str) -> Run:
    """What `run.json` says, with `results.json` and the resolved config where they are.

    Args:
        folder: of the run.
        label: how people call the folder.

    Raises:
        ValueError: `run.json` is damaged or of another format; the message is for people.
        OSError: it cannot be opened.
    """
    data = read_json(folder / "run.json")
    if data.get("format") != FORMAT:
        raise ValueError(
            f"run.json has format {data.get('format')!r}, and this version reads {FORMAT}: "
            "report with the version that made the run"
        )
    fields = Fields(data, "run.json")
    status = fields.text("status", required=True)
    if status not in STATUSES:
        raise ValueError(f"run.json: status {status!r} is none of {', '.join(STATUSES)}")
    if status == "running" and not is_alive(folder):
        status = "killed"
    seed, git = fields.number("seed"), fields.object("git")
    remarks: list[str] = []
    results = _beside(folder / "results.json", read_json, remarks)
    metrics = dict(fields.object("metrics").numbers())
    if status == "finished" and not metrics and isinstance(results.get("metrics"), dict):
        metrics = dict(Fields(results["metrics"], "results.json: metrics").numbers())
    return Run(
        folder=folder,
        label=label,
        name=fields.text("name") or label,
        mode=fields.text("mode", required=True),
        row=fields.text("row", required=True),
        status=status,
        choices={str(k): str(v) for k, v in fields.object("choices").data.items() if v is not None},
        overrides=fields.texts("overrides"),
        command=fields.text("command"),
        sweep=fields.text("sweep") or None,
        seed=int(seed) if math.isfinite(seed) else None,
        config_hash=fields.text("config_hash"),
        # The hash with the seed makes a run stand alone, and so does its label.
        family=fields.text("config_hash_any_seed") or fields.text("config_hash") or label,
        revision=git.text("revision"),
        changed=git.flag("changed"),
        environment=dict(fields.object("environment").data),
        recipe=fields.object("recipe").numbers(),
        train=dict(fields.object("train").data),
        published_note=fields.text("published_note"),
        error=fields.text("error").partition("\n")[0],
        attempts=[
            Attempt(
                attempt.text("started"),
                attempt.text("ended"),
                attempt.number("seconds"),
                attempt.text("status"),
            )
            for attempt in fields.objects("attempts")
        ],
        wall_seconds=fields.number("wall_seconds"),
        device_hours=fields.number("device_hours"),
        metrics=metrics if status == "finished" else {},
        results=results,
        settings=_beside(folder / ".hydra" / "resolved.yaml", read_settings, remarks),
        last_written="" if status == "finished" else _last_written(folder),
        remarks=remarks,
    )


def _last_written(folder: Path) -> str:
    """When a run that has no end yet, or was killed, last wrote a line."""
    files = [file for name in ("log.txt", "metrics.json") if (file := folder / name).is_file()]
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    moment = datetime.fromtimestamp(newest, timezone.utc)
    return moment.isoformat(timespec="seconds") if newest else ""


def _beside(file: Path, read: Any, remarks: list[str]) -> Any:
    """What another file of the run says; a damaged one is remarked, a missing one is not."""
    if not file.exists():
        return {}
    try:
        return read(file)
    except (ValueError, OSError) as error:
        remarks.append(str(error) if file.name in str(error) else f"{file.name}: {error}")
        return {}
