"""Patients for tests: a dataset below a folder, and as much of a row as is asked for."""

from functools import partial
from pathlib import Path
from typing import Any

from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.datasets.cityscapes import (
    cityscapes_classes,
    cityscapes_panoptic,
    cityscapes_semantic,
)
from panoptic_dl.datasets.coco import coco_classes, coco_panoptic, coco_semantic
from panoptic_dl.doctor.context import Check, Patient, Row, make_checks

REGISTER = {
    ("cityscapes", "panoptic"): cityscapes_panoptic,
    ("cityscapes", "semantic"): cityscapes_semantic,
    ("coco", "panoptic"): coco_panoptic,
    ("coco", "semantic"): coco_semantic,
}


def patient_of(
    root: Path, kind: str, task: str = "panoptic", *, sample: int | None = None, workers: int = 1
) -> Patient:
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
    return Patient(
        device="cpu",
        parts=parts,
        choice={"dataset": kind, "task": task, "backbone": "none", "head": "none"},
        sizes={},
        train={},
        checkpoint={},
        recipe={},
        launch={},
        settings=DoctorSettings(sample=sample, workers=workers, steps=False),
        run_dir=str(root / "run"),
    )


def states(rows: list[Row]) -> dict[str, str]:
    """State by "group: name"."""
    return {f"{row.group}: {row.name}": row.verdict.state.value for row in rows}


def examined(checks: list[Check], patient: Patient) -> dict[str, Row]:
    return {f"{row.group}: {row.name}": row for row in make_checks(checks, patient)}


def words(row: Row) -> str:
    """All that a row says."""
    return "\n".join([row.verdict.found, *row.verdict.problems])
