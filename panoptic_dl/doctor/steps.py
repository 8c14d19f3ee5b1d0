"""Two training steps and one evaluation step, as a run makes them, in a folder that goes away.

With several processes, the main one runs the checks; the others wait, and take the steps with it.
"""

import contextlib
import datetime
import json
import logging
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import distributed

from panoptic_dl.core.environment import peak_memory, reset_peak_memory
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.doctor.context import Check, CheckContext, CheckResult, fail, ok
from panoptic_dl.doctor.machine import amount
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.train.train import train

NUM_STEPS = 2
FOLDER = "doctor"  # below the run's own
LONGEST_WAIT = datetime.timedelta(days=7)  # of processes for the main one, which opens all images
PROGRESS_LOGGERS = ("panoptic_dl.doctor", "panoptic_dl.train.hooks", "panoptic_dl.core.parallel")


def checks() -> list[Check]:
    """A run in small; what it reads must be right."""
    names = ("classes", "weights", "memory", "shared memory", "disk", "training loader")
    parts = [f"row: {name}" for name in (*names, "normalization", "evaluation")]
    files = ("layout", "images", "sizes", "labels", "label ids", "semantic labels")
    train_files = [f"train data: {name}" for name in files]
    val_files = [f"val data: {name}" for name in files]
    needs = {"training": [*parts, *train_files], "evaluation": ["steps: training", *val_files]}
    hint = "see the error in log.txt"
    return [Check("steps", step, partial(_lead, step), needs[step], hint) for step in STEPS]


def make_process_group() -> Any:
    """A group in which processes may wait long for the main one; None for a single process."""
    if comm.get_world_size() == 1:
        return None
    return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _lead(step: str, context: CheckContext) -> CheckResult | None:
    comm.all_gather(step, context.process_group)
    return STEPS[step](context)


def dismiss(context: CheckContext) -> None:
    """Let the other processes end; called by the main one after its last step."""
    comm.all_gather(None, context.process_group)


def follow(context: CheckContext) -> None:
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


def clear(context: CheckContext) -> None:
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
