"""Two training steps and one evaluation step, as a run makes them, in a folder that goes away."""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from detectron2.utils import comm

from panoptic_dl.engine import memory
from panoptic_dl.engine.interrupt import Interrupted
from panoptic_dl.engine.train import train

from .amounts import amount
from .patient import Patient
from .verdicts import Verdict, fail, ok

NUM_STEPS = 2
FOLDER = "doctor"  # below the run's own
SPEAK = ("panoptic_dl.doctor", "panoptic_dl.engine.console", "panoptic_dl.engine.progress")


def make_training_steps(patient: Patient) -> Verdict | None:
    """Steps of the row's own trainer and loader, a checkpoint, and finite losses.

    Called by all processes; None but in the first of them.
    """
    folder = _fresh_folder(patient)
    settings = patient.train | {
        **{"iterations": min(NUM_STEPS, patient.train["iterations"]), "log_period": 1},
        **{"eval_period": 0, "eval_at_end": False, "fast_dev_run": False},
    }
    device = torch.device(patient.device)
    memory.start(device)
    started = time.perf_counter()
    with _quietly():
        train(
            device=patient.device,
            model=patient.part("model"),
            loader=patient.part("loader"),
            optimizer=patient.part("optimizer"),
            schedule=patient.part("schedule"),
            evaluation=patient.part("evaluation"),
            weights=None,  # another check has loaded them
            resume=False,
            run_dir=str(folder),
            settings=settings,
            checkpoint=patient.checkpoint | {"kept": 1, "period": NUM_STEPS},
            recipe=dict(patient.recipe),
            max_bad_samples=patient.max_bad_samples,
            image_format=patient.image_format,
        )
    seconds = time.perf_counter() - started
    if not comm.is_main_process():
        return None
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    last = lines[-1]
    losses = ", ".join(
        f"{name.removeprefix('loss_')} {value:.3g}"
        for name, value in last.items()
        if name.startswith("loss_") or name == "total_loss"
    )
    return ok(
        f"{len(lines)} steps in {seconds:.1f} s; {losses}; peak memory "
        f"{amount(memory.peak_device(device) * 2**20)}"
    )


def make_evaluation_step(patient: Patient) -> Verdict | None:
    """One image of each process through the model, the evaluators and their tables and pictures."""
    evaluate = partial(patient.part("evaluation"), rehearsal=True, rehearsal_images=1)
    with _quietly():
        results = evaluate(patient.part("model").to(patient.device), _folder(patient))
    if not comm.is_main_process():
        return None
    if not results["metrics"]:
        return fail("the evaluators gave no figure", "choose the evaluators of the dataset")
    number = results["num_images"]
    return ok(f"{number} image{'s' if number > 1 else ''}: {', '.join(results['metrics'])}")


STEPS = {"training": make_training_steps, "evaluation": make_evaluation_step}


def clear(patient: Patient) -> None:
    """Remove what the steps have written, but for records of what went wrong."""
    folder = _folder(patient)
    for file in folder.glob("*.pth*"):  # large
        file.unlink(missing_ok=True)
    if not (folder / "nonfinite.jsonl").exists():
        shutil.rmtree(folder, ignore_errors=True)


def _folder(patient: Patient) -> Path:
    return Path(patient.run_dir, FOLDER)


def _fresh_folder(patient: Patient) -> Path:
    folder = _folder(patient)
    if comm.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    comm.synchronize()
    return folder


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The console hears of progress only, log.txt of everything; stopped means stopped."""

    def progress(record: logging.LogRecord) -> bool:
        return record.name.startswith(SPEAK)

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
    except Interrupted:  # it says that all is saved: here there is nothing to save
        raise KeyboardInterrupt from None
    finally:
        for handler in handlers:
            handler.removeFilter(progress)
