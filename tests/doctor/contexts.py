"""Contexts for tests: a dataset below a folder, and as much of the config as is asked for."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.datasets.cityscapes import (
    cityscapes_classes,
    cityscapes_panoptic,
    cityscapes_semantic,
)
from panoptic_dl.datasets.coco import coco_classes, coco_panoptic, coco_semantic
from panoptic_dl.doctor import data
from panoptic_dl.doctor.config import checks, setup_checks
from panoptic_dl.doctor.context import Check, CheckContext, CheckResult, run_checks
from tests.runs import SMALL

REGISTER = {
    ("cityscapes", "panoptic"): cityscapes_panoptic,
    ("cityscapes", "semantic"): cityscapes_semantic,
    ("coco", "panoptic"): coco_panoptic,
    ("coco", "semantic"): coco_semantic,
}


def dataset_context(
    root: Path, kind: str, task: str = "panoptic", *, sample: int | None = None, workers: int = 1
) -> CheckContext:
    """With a dataset and nothing else."""
    classes = cityscapes_classes() if kind == "cityscapes" else coco_classes()
    register = partial(REGISTER[kind, task], root=str(root), prefix="doctor_")
    parts: dict[str, Any] = {
        "root": lambda: str(root),
        "train": lambda: register(split="train"),
        "val": lambda: register(split="val"),
        "classes": lambda: classes,
        "num_classes": lambda: len(classes),
        "thing_ids": lambda: list(classes.thing_ids),
    }
    return CheckContext(
        device="cpu",
        parts=parts,
        choice={"dataset": kind, "task": task, "backbone": "none", "head": "none"},
        sizes={},
        train={},
        checkpoint={},
        recipe={},
        settings=DoctorSettings(sample=sample, workers=workers, steps=False),
        run_dir=str(root / "run"),
    )


def results_of(chosen: list[Check], context: CheckContext) -> dict[str, CheckResult]:
    return {f"{row.group}: {row.name}": row for row in run_checks(chosen, context)}


def words(row: CheckResult) -> str:
    """What was found, and all problems."""
    return "\n".join([row.found, *row.problems])


GREEN = ["train.batch_size=4", "recipe_record.batch_size=4", "recipe_record.iterations=2"]


def row_context(root, *overrides):
    """As `mode=doctor` would make it, with both splits registered."""
    config = compose(
        [*SMALL, "mode=doctor", "dataset=cityscapes", f"dataset.root={root}", *GREEN, *overrides]
    )
    (root / "run").mkdir(exist_ok=True)
    config.run_dir = str(root / "run")
    node = OmegaConf.to_container(config.mode, resolve=True)
    del node["_target_"]
    arguments = build(node)
    arguments["settings"] = DoctorSettings(**arguments["settings"])
    return CheckContext(device="cpu", **arguments)


def rows_of(context):
    layouts = [check for check in data.checks() if check.name == "layout"]
    rows = run_checks([*setup_checks(), *layouts, *checks()], context)
    return {row.name: row for row in rows}


def odd(results):
    return {name: v.state.value for name, v in results.items() if v.state.value != "ok"}


def rows_in(folder):
    content = json.loads((folder / "doctor.json").read_text())
    return content, {f"{r['group']}: {r['name']}": r for r in content["rows"]}
