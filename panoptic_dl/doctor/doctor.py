"""mode=doctor: all checks of a row, their table, and the exit code.

Every check, in the order of the table. A new check is a line here and a function of its own.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.doctor.config import (
    look_at_batch,
    look_at_classes,
    look_at_crop,
    look_at_evaluation,
    look_at_loader,
    look_at_model,
    look_at_normalization,
    look_at_optimizer,
    look_at_recipe,
    look_at_settings,
    look_at_weights,
)
from panoptic_dl.doctor.context import Check, Patient, Row, State, make_checks
from panoptic_dl.doctor.data import (
    checks_of,
    look_at_annotations,
    look_at_categories,
    look_at_crowds,
    look_at_instances,
    look_at_layout,
    look_at_occurrences,
    look_for_overlap,
)
from panoptic_dl.doctor.machine import (
    look_at_detectron2,
    look_at_device,
    look_at_disk,
    look_at_loader_processes,
    look_at_packages,
    look_at_shared_memory,
)
from panoptic_dl.doctor.memory import look_at_memory
from panoptic_dl.doctor.steps import (
    COLLECTIVE_STEPS,
    Leader,
    clear,
    follow,
    make_evaluation_step,
    make_training_steps,
    together,
)
from panoptic_dl.doctor.table import as_json, markdown, summary, text

SET_UP, ROW, STEPS = "set-up", "row", "steps"
SPLITS = ("train", "val")
# What a training step reads; where it is red, the step would say so again.
READ = ("layout", "images", "sizes", "labels", "label ids", "semantic labels")

ASK_PYTHON = "see the error in log.txt: a part of the row cannot be built as it is configured"
LOOK_AT_ROOT = (
    "dataset.root must be the folder that holds the dataset's folder (DETECTRON2_DATASETS)"
)
PREPARE = "mend the file that is named, or prepare the dataset again (README.md, Data)"


def all_checks(leader: Leader, *, steps: bool) -> list[Check]:
    """The checks; `steps` says whether training and evaluation are tried."""
    found = [*set_up_checks(), *data_checks(), *row_checks()]
    return [*found, *step_checks(leader)] if steps else found


def set_up_checks() -> list[Check]:
    """The machine, before anything is built."""
    return [
        Check(SET_UP, "packages", look_at_packages, cure="make setup"),
        Check(SET_UP, "detectron2", look_at_detectron2, cure="make setup"),
        Check(SET_UP, "device", look_at_device, cure="launch.num_gpus=0 runs on the CPU"),
        Check(SET_UP, "settings", look_at_settings, cure="the values of the message"),
        Check(SET_UP, "loader processes", look_at_loader_processes),
    ]


def data_checks() -> list[Check]:
    """Both splits: the catalog, the JSON file, every image and label."""
    checks = []
    for split in SPLITS:
        group = f"{split} data"
        layout = (f"{group}: layout",)
        checks += [
            Check(group, "layout", partial(look_at_layout, split), cure=LOOK_AT_ROOT),
            Check(group, "annotations", partial(look_at_annotations, split), layout, PREPARE),
            Check(group, "categories", partial(look_at_categories, split), layout, PREPARE),
            Check(group, "crowds", partial(look_at_crowds, split), layout, PREPARE),
            *checks_of(split),
            Check(group, "classes", partial(look_at_occurrences, split), layout, PREPARE),
        ]
    layouts = tuple(f"{split} data: layout" for split in SPLITS)
    instances = partial(look_at_instances, "val")
    return [
        *checks,
        Check("val data", "instances file", instances, layouts[1:], PREPARE),
        Check("both splits", "overlap", look_for_overlap, layouts, PREPARE),
    ]


def row_checks() -> list[Check]:
    """Parts, numbers and weights."""
    layouts = tuple(f"{split} data: layout" for split in SPLITS)
    settings, device = f"{SET_UP}: settings", f"{SET_UP}: device"
    model, optimizer = f"{ROW}: model", f"{ROW}: optimizer"
    batch = f"{ROW}: batch"
    shared = (settings, device)
    return [
        Check(ROW, "classes", look_at_classes, cure=ASK_PYTHON),
        Check(ROW, "model", look_at_model, cure=ASK_PYTHON),
        Check(ROW, "weights", look_at_weights, (model,), "weights= of the same row, or none"),
        Check(ROW, "optimizer", look_at_optimizer, (model, settings), ASK_PYTHON),
        Check(ROW, "batch", look_at_batch, shared, "train.batch_size of the message"),
        Check(ROW, "recipe", look_at_recipe, (batch, optimizer), ASK_PYTHON),
        Check(ROW, "normalisation", look_at_normalization, (batch, model), ASK_PYTHON),
        Check(ROW, "crop", look_at_crop, (model,), ASK_PYTHON),
        Check(ROW, "shared memory", look_at_shared_memory, (batch,), "train.num_workers=0"),
        Check(ROW, "memory", look_at_memory, (batch, optimizer), "train.images_per_gpu=1"),
        Check(ROW, "disk", look_at_disk, (settings, optimizer), "another run_dir"),
        Check(ROW, "training loader", look_at_loader, (batch, layouts[0]), ASK_PYTHON),
        Check(ROW, "evaluation", look_at_evaluation, layouts[1:], ASK_PYTHON),
    ]


def step_checks(leader: Leader) -> list[Check]:
    """A run in small."""
    rows = ("classes", "weights", "memory", "shared memory", "disk", "training loader")
    training = tuple(f"{ROW}: {name}" for name in (*rows, "normalisation", "evaluation"))
    reads = {split: tuple(f"{split} data: {name}" for name in READ) for split in SPLITS}
    trained = f"{STEPS}: training"
    return [
        Check(
            STEPS,
            "training",
            together(leader, "training", make_training_steps),
            (*training, *reads["train"]),
            "see the error in log.txt",
        ),
        Check(
            STEPS,
            "evaluation",
            together(leader, "evaluation", make_evaluation_step),
            (trained, *reads["val"]),
            "see the error in log.txt",
        ),
    ]


logger = logging.getLogger(__name__)


def examine(
    *,
    device: str,
    parts: Mapping[str, Callable[[], Any]],
    settings: dict[str, Any],
    **row: Any,
) -> dict[str, Any]:
    """Check everything about a row, print the table, save it in `run_dir`.

    Called by every process of the run: the first makes the checks, all take the steps.

    Args:
        device: `cuda` or `cpu`.
        parts: functions that build the row's parts.
        settings: fields of `DoctorSettings`.
        row: the other fields of `Patient`.

    Returns:
        `metrics`: how many rows are red, and how many yellow; `rows`, for JSON. {} but in the first
        process.

    Raises:
        ValueError: settings that cannot be.
        SystemExit: with 1, where a row is red; everything is printed and saved then.
    """
    patient = Patient(device=device, parts=parts, settings=DoctorSettings(**settings), **row)
    if not comm.is_main_process():
        follow(dict(COLLECTIVE_STEPS), patient)
        return {}
    leader = Leader()
    patient.tell_others = leader.keep_waiting
    rows = make_checks(all_checks(leader, steps=patient.settings.steps), patient)
    clear(patient)
    results = _report(rows, patient)
    if results["metrics"]["red"]:
        sys.exit(ExitCode.ERROR)  # ends the other processes, wherever they are
    leader.dismiss()
    return results


def _report(rows: list[Row], patient: Patient) -> dict[str, Any]:
    """Print and save; where there is no room to save, say so after the table."""
    name = patient.row
    logger.debug("The doctor's table\n%s", text(rows))  # for log.txt, without colours
    print(text(rows, in_color=sys.stdout.isatty()), flush=True)
    folder = Path(patient.run_dir)
    about = {"row": name, "sample": patient.settings.sample, "device": patient.device}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "doctor.json", as_json(rows, about))
        write_text(folder / "doctor.md", markdown(rows, name))
        logger.info("%s: %s; saved %s and .md", name, summary(rows), folder / "doctor.json")
    except OSError as error:
        logger.error("The table cannot be saved in %s: %s", folder, error)
    states = [row.verdict.state for row in rows]
    return {
        "metrics": {
            "red": float(states.count(State.FAIL)),
            "yellow": float(states.count(State.WARN)),
        },
        "rows": [row.as_dict() for row in rows],
    }
