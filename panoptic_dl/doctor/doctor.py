"""mode=doctor: all checks of an experiment, their table, and the exit code.

The last checks are two training steps and one evaluation step, as a run makes them, in a folder
that goes away. With several processes, the main one runs the checks; the others wait, and take the
steps with it.
"""

import contextlib
import datetime
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from markupsafe import Markup
from termcolor import colored
from torch import distributed

from panoptic_dl.core.environment import peak_memory, reset_peak_memory
from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import METRICS, ExitCode
from panoptic_dl.core.settings import DoctorSettings, experiment_name
from panoptic_dl.doctor import config, data
from panoptic_dl.doctor.context import Check, CheckContext, CheckResult, State, fail, ok, run_checks
from panoptic_dl.doctor.machine import amount
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.report.formats import load_template
from panoptic_dl.train.train import train

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 10  # of a check, in print
COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.UNCHECKED: "magenta"}


def run_doctor(
    *,
    device: str,
    parts: Mapping[str, Callable[[], Any]],
    settings: dict[str, Any],
    **others: Any,
) -> dict[str, Any]:
    """Check everything about an experiment, print the table, save it in `run_dir`.

    Called by every process of the run: the main one runs the checks, all take the steps.
    `settings` are fields of `DoctorSettings`, `parts` and `others` the others of `CheckContext`.

    Returns `metrics`, how many checks are red and yellow, and `rows`, for JSON; {} but in the main
    process. Raises SystemExit with 1, where a check is red; everything is printed and saved then.
    """
    context = CheckContext(
        device=device,
        parts=parts,
        settings=DoctorSettings(**settings),
        process_group=_make_process_group(),
        **others,
    )
    if not comm.is_main_process():
        _follow(context)
        return {}
    checks = [*config.setup_checks(), *data.checks(), *config.checks()]
    if context.settings.steps:
        checks += step_checks()
    results = run_checks(checks, context)
    _clear(context)
    report = _report(results, context)
    if report["metrics"]["red"]:
        sys.exit(ExitCode.ERROR)  # ends the other processes, wherever they are
    _dismiss(context)
    return report


def _report(results: list[CheckResult], context: CheckContext) -> dict[str, Any]:
    """Print and save; where there is no room to save, log it after the table."""
    logger.debug("The doctor's table\n%s", _text(results))  # for log.txt, without colors
    print(_text(results, in_color=True), flush=True)
    folder, name = Path(context.run_dir), experiment_name(context.choice)
    counts = Counter(result.state for result in results)
    rows = [asdict(result) for result in results]
    content = {
        "row": name,
        "sample": context.settings.sample,
        "device": context.device,
        "healthy": not counts[State.FAIL],
        "counts": {state.value: counts[state] for state in State},
        "rows": rows,
    }
    title = f"{name}: {_summary(results)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "doctor.json", json.dumps(content, indent=2) + "\n")
        write_text(folder / "doctor.md", f"# {title}\n\n```\n{_text(results)}\n```\n")
        logger.info("%s; saved %s and .md", title, folder / "doctor.json")
    except OSError as error:
        logger.error("The table cannot be saved in %s: %s", folder, error)
    metrics = {"red": float(counts[State.FAIL]), "yellow": float(counts[State.WARN])}
    return {"metrics": metrics, "rows": rows}


def _summary(results: Sequence[CheckResult]) -> str:
    """All in one line: "38 ok, 2 warn, 1 FAIL"."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])


def _text(results: Sequence[CheckResult], *, in_color: bool = False) -> str:
    """A line a check under headings, its problems and hint; last, what needs one that failed."""
    shown = [result for result in results if not result.needs]
    width = max((len(result.name) for result in shown), default=0)
    state_width = max((len(result.state.value) for result in shown), default=0)

    def state_of(result: CheckResult) -> str:
        state = result.state.value.ljust(state_width)
        # In color where NO_COLOR, TERM and the terminal allow it.
        return Markup(colored(state, COLORS[result.state])) if in_color else state

    return load_template("doctor.txt").render(
        results=shown,
        waiting=[result for result in results if result.needs],
        summary=_summary(results),
        state_of=state_of,
        width=width,
        indent=" " * (state_width + width + 6),
        most=MAX_PROBLEMS,
    )


NUM_STEPS = 2
FOLDER = "doctor"  # below the run's own
LONGEST_WAIT = datetime.timedelta(days=7)  # of processes for the main one, which opens all images
PROGRESS_LOGGERS = ("panoptic_dl.doctor", "panoptic_dl.train.hooks", "panoptic_dl.core.parallel")


def step_checks() -> list[Check]:
    """A run in small; what it reads must be right."""
    names = ("classes", "weights", "memory", "shared memory", "disk", "training loader")
    parts = [f"row: {name}" for name in (*names, "normalization", "evaluation")]
    files = ("layout", "images", "sizes", "labels", "label ids", "semantic labels")
    train_files = [f"train data: {name}" for name in files]
    val_files = [f"val data: {name}" for name in files]
    needs = {"training": [*parts, *train_files], "evaluation": ["steps: training", *val_files]}
    hint = "see the error in log.txt"
    return [Check("steps", step, partial(_lead, step), needs[step], hint) for step in STEPS]


def _make_process_group() -> Any:
    """A group in which processes may wait long for the main one; None for a single process."""
    if comm.get_world_size() == 1:
        return None
    return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _lead(step: str, context: CheckContext) -> CheckResult | None:
    comm.all_gather(step, context.process_group)
    return STEPS[step](context)


def _dismiss(context: CheckContext) -> None:
    """Let the other processes end; called by the main one after its last step."""
    comm.all_gather(None, context.process_group)


def _follow(context: CheckContext) -> None:
    """Take the main process's steps. One that fails ends the process, and with it the run."""
    while (step := comm.all_gather(None, context.process_group)[0]) is not None:
        STEPS[step](context)


def _train(context: CheckContext) -> CheckResult | None:
    """Two steps in all processes: finite losses, and a checkpoint; None but in the main one."""
    folder = Path(context.run_dir, FOLDER)
    if comm.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    comm.synchronize()
    settings = context.train | {
        "iterations": min(NUM_STEPS, context.train["iterations"]),
        "log_period": 1,
        "eval_period": NUM_STEPS + 1 if context.train["eval_period"] else 0,  # never due
        "eval_at_end": False,
        "fast_dev_run": False,
    }
    parts = ("model", "loader", "optimizer", "schedule", "evaluation")
    device = torch.device(context.device)
    reset_peak_memory(device)
    started = time.perf_counter()
    with _quietly():
        train(
            device=context.device,
            **{name: context.part(name) for name in parts},
            weights=None,  # another check has loaded them
            resume=False,
            run_dir=str(folder),
            settings=settings,
            checkpoint=context.checkpoint | {"kept": 1, "period": NUM_STEPS},
            recipe=dict(context.recipe),
            find_unused_parameters=context.find_unused_parameters,
            image_format=context.image_format,
        )
    seconds = time.perf_counter() - started
    if not comm.is_main_process():
        return None
    lines = (folder / METRICS).read_text().splitlines()
    losses = ", ".join(
        f"{name.removeprefix('loss_')} {value:.3g}"
        for name, value in json.loads(lines[-1]).items()
        if name.startswith("loss_") or name == "total_loss"
    )
    peak = amount(peak_memory(device) * 2**20)
    return ok(f"{len(lines)} steps in {seconds:.1f} s; {losses}; peak memory {peak}")


def _evaluate(context: CheckContext) -> CheckResult | None:
    """One image of each process through the model, the evaluators and their tables and pictures."""
    evaluate = partial(context.part("evaluation"), limit=1)
    with _quietly():
        results = evaluate(context.part("model").to(context.device), Path(context.run_dir, FOLDER))
    if not comm.is_main_process():
        return None
    if not results["metrics"]:
        return fail("the evaluators gave no metric", "choose the evaluators of the dataset")
    number = results["num_images"]
    return ok(f"{number} image{'s' if number > 1 else ''}: {', '.join(results['metrics'])}")


STEPS = {"training": _train, "evaluation": _evaluate}


def _clear(context: CheckContext) -> None:
    """Remove what the steps have written, but for records of losses that are not finite."""
    folder = Path(context.run_dir, FOLDER)
    for file in folder.glob("*.pth*"):  # large
        file.unlink(missing_ok=True)
    if not (folder / "nonfinite.jsonl").exists():
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Only progress is logged to the console, everything to log.txt; an interrupt ends the run."""

    def progress(record: logging.LogRecord) -> bool:
        return record.name.startswith(PROGRESS_LOGGERS)

    handlers = [
        handler
        for name in ("panoptic_dl", "detectron2", "fvcore")
        for handler in logging.getLogger(name).handlers
        if not isinstance(handler, logging.FileHandler)
    ]
    for handler in handlers:
        handler.addFilter(progress)
    try:
        yield
    except Interrupted:  # its message is that all is saved: here nothing is
        raise KeyboardInterrupt from None
    finally:
        for handler in handlers:
            handler.removeFilter(progress)
