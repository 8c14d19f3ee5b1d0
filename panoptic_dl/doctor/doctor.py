"""mode=doctor: all checks of an experiment, their table, and the exit code."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from tabulate import tabulate
from termcolor import colored

from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.doctor import config, data, machine, memory
from panoptic_dl.doctor.context import Check, CheckContext, CheckResult, State, run_checks
from panoptic_dl.doctor.steps import Leader, clear, follow

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
MAX_PROBLEMS = 10  # of a check, in print
COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.UNCHECKED: "magenta"}

SEE_LOG = "see the error in log.txt: a part of the row cannot be built as it is configured"
BATCH = "train.batch_size of the message"
SEE_ROOT = "dataset.root must be the folder that holds the dataset's folder (DETECTRON2_DATASETS)"
PREPARE = "mend the file that is named, or prepare the dataset again (README.md, Data)"


def run_doctor(
    *,
    device: str,
    parts: Mapping[str, Callable[[], Any]],
    settings: dict[str, Any],
    **others: Any,
) -> dict[str, Any]:
    """Check everything about an experiment, print the table, save it in `run_dir`.

    Called by every process of the run: the main one runs the checks, all take the steps.

    Args:
        device: `cuda` or `cpu`.
        parts: functions that build the experiment's parts.
        settings: fields of `DoctorSettings`.
        others: the other fields of `CheckContext`.

    Returns:
        `metrics`: how many checks are red, and how many yellow; `rows`, for JSON. {} but in the
        main process.

    Raises:
        ValueError: a setting has a wrong value.
        SystemExit: with 1, where a check is red; everything is printed and saved then.
    """
    context = CheckContext(
        device=device, parts=parts, settings=DoctorSettings(**settings), **others
    )
    if not comm.is_main_process():
        follow(context)
        return {}
    leader = Leader()
    context.keep_waiting = leader.keep_waiting
    checks = [*machine_checks(), *data_checks(), *config_checks()]
    if context.settings.steps:
        checks += _step_checks(leader)
    results = run_checks(checks, context)
    clear(context)
    report = _report(results, context)
    if report["metrics"]["red"]:
        sys.exit(ExitCode.ERROR)  # ends the other processes, wherever they are
    leader.dismiss()
    return report


def machine_checks() -> list[Check]:
    """The machine, before anything is built."""
    group = "set-up"
    return [
        Check(group, "packages", machine.check_packages, hint="make setup"),
        Check(group, "detectron2", machine.check_detectron2, hint="make setup"),
        Check(group, "device", machine.check_device, hint="launch.num_gpus=0 runs on the CPU"),
        Check(group, "settings", config.check_settings, hint="the values of the message"),
        Check(group, "loader processes", machine.check_loader_processes),
    ]


def data_checks() -> list[Check]:
    """Both splits: the catalog, the JSON file, every image and label."""
    checks = []
    layouts = [f"{split} data: layout" for split in SPLITS]
    for split, layout in zip(SPLITS, layouts, strict=True):
        group, needs = f"{split} data", [layout]
        checks += [
            Check(group, "layout", partial(data.check_layout, split), hint=SEE_ROOT),
            *(
                Check(group, find.__name__, partial(data.check_json, find, split), needs, PREPARE)
                for find in (data.annotations, data.categories, data.crowds)
            ),
            *data.file_checks(split),
            Check(group, "classes", partial(data.check_classes, split), needs, PREPARE),
        ]
    instances = partial(data.check_instances, "val")
    return [
        *checks,
        Check("val data", "instances file", instances, layouts[1:], PREPARE),
        Check("both splits", "overlap", data.check_overlap, layouts, PREPARE),
    ]


def config_checks() -> list[Check]:
    """Parts, numbers and weights."""
    group = "row"
    train, val = (f"{split} data: layout" for split in SPLITS)
    settings, device = "set-up: settings", "set-up: device"
    model, optimizer, batch = "row: model", "row: optimizer", "row: batch"
    return [
        Check(group, "classes", config.check_classes, hint=SEE_LOG),
        Check(group, "model", config.check_model, hint=SEE_LOG),
        Check(group, "weights", config.check_weights, [model], "weights= of the same row, or none"),
        Check(group, "optimizer", config.check_optimizer, [model, settings], SEE_LOG),
        Check(group, "batch", config.check_batch, [settings, device], BATCH),
        Check(group, "recipe", config.check_recipe, [batch, optimizer], SEE_LOG),
        Check(group, "normalisation", config.check_normalization, [batch, model], SEE_LOG),
        Check(group, "crop", config.check_crop, [model], SEE_LOG),
        Check(group, "shared memory", machine.check_shared_memory, [batch], "train.num_workers=0"),
        Check(group, "memory", memory.check_memory, [batch, optimizer], "train.images_per_gpu=1"),
        Check(group, "disk", machine.check_disk, [settings, optimizer], "another run_dir"),
        Check(group, "training loader", config.check_loader, [batch, train], SEE_LOG),
        Check(group, "evaluation", config.check_evaluation, [val], SEE_LOG),
    ]


def _step_checks(leader: Leader) -> list[Check]:
    """A run in small; what it reads must be right."""
    names = ("classes", "weights", "memory", "shared memory", "disk", "training loader")
    parts = [f"row: {name}" for name in (*names, "normalisation", "evaluation")]
    train, val = (
        [
            f"{split} data: {name}"
            for name in ("layout", "images", "sizes", "labels", "label ids", "semantic labels")
        ]
        for split in SPLITS
    )
    return [
        Check("steps", name, partial(leader.run, name), needs, "see the error in log.txt")
        for name, needs in (
            ("training", [*parts, *train]),
            ("evaluation", ["steps: training", *val]),
        )
    ]


def _report(results: list[CheckResult], context: CheckContext) -> dict[str, Any]:
    """Print and save; where there is no room to save, log it after the table."""
    logger.debug("The doctor's table\n%s", _text(results))  # for log.txt, without colors
    print(_text(results, in_color=sys.stdout.isatty()), flush=True)
    folder, counts = Path(context.run_dir), Counter(result.state for result in results)
    rows = [result.as_dict() for result in results]
    content = {
        "row": context.name,
        "sample": context.settings.sample,
        "device": context.device,
        "healthy": not counts[State.FAIL],
        "counts": {state.value: counts[state] for state in State},
        "rows": rows,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "doctor.json", json.dumps(content, indent=2) + "\n")
        write_text(folder / "doctor.md", _markdown(results, context.name))
        logger.info(
            "%s: %s; saved %s and .md", context.name, _summary(results), folder / "doctor.json"
        )
    except OSError as error:
        logger.error("The table cannot be saved in %s: %s", folder, error)
    metrics = {"red": float(counts[State.FAIL]), "yellow": float(counts[State.WARN])}
    return {"metrics": metrics, "rows": rows}


def _summary(results: Sequence[CheckResult]) -> str:
    """All in one line: "38 ok, 2 warn, 1 FAIL"."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])


def _text(results: Sequence[CheckResult], *, in_color: bool = False) -> str:
    """A line a check under headings; below what is not green, its problems and the hint."""
    width = max((len(result.name) for result in results), default=0)
    state_width = max((len(result.state.value) for result in results), default=0)
    indent = " " * (state_width + width + 6)
    lines, group = [], ""
    for result in results:
        if result.group != group:
            group = result.group
            lines.append(group)
        state = result.state.value.ljust(state_width)
        if in_color:
            state = colored(state, COLORS[result.state], force_color=True)
        lines.append(f"  {state}  {result.name.ljust(width)}  {result.found}")
        lines += [f"{indent}- {problem}" for problem in result.problems[:MAX_PROBLEMS]]
        if len(result.problems) > MAX_PROBLEMS:
            more = len(result.problems) - MAX_PROBLEMS
            lines.append(f"{indent}- and {more:,} more in doctor.json")
        if result.hint is not None:
            lines.append(f"{indent}cure: {result.hint}")
    return "\n".join([*lines, _summary(results)])


def _markdown(results: Sequence[CheckResult], title: str) -> str:
    """One table, and lists of what is wrong below it."""
    cells = [
        [
            f"{result.group}: {result.name}",
            f"**{result.state.value}**" if result.state is State.FAIL else result.state.value,
            *(
                text.replace("|", "\\|").replace("\n", " ")
                for text in (result.found, result.hint or "")
            ),
        ]
        for result in results
    ]
    parts = [
        f"# {title}: {_summary(results)}",
        tabulate(cells, ["check", "", "found", "cure"], "github", disable_numparse=True),
    ]
    for result in results:
        if result.problems:
            parts.append(f"## {result.group}: {result.name}")
            parts.append("\n".join(f"- `{p}`" for p in result.problems[:MAX_PROBLEMS]))
            if len(result.problems) > MAX_PROBLEMS:
                parts.append(f"{len(result.problems) - MAX_PROBLEMS:,} more are in doctor.json")
    return "\n\n".join(parts) + "\n"
