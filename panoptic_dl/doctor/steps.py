"""Two training steps and one evaluation step, as a run makes them, in a folder that goes away.

With several processes, the main one runs the checks; the others wait, and take the steps with it.
"""

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

from panoptic_dl.core import memory
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.doctor.context import CheckContext, CheckResult, fail, ok
from panoptic_dl.doctor.machine import amount
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.train.train import train

NUM_STEPS = 2
FOLDER = "doctor"  # below the run's own
PERIOD = 60.0  # seconds between messages; processes that get none for half an hour give up
WAIT, END = "wait", "end"
PROGRESS_LOGGERS = ("panoptic_dl.doctor", "panoptic_dl.train.console", "panoptic_dl.core.parallel")


def _train(context: CheckContext) -> CheckResult | None:
    """Steps of the experiment's trainer and loader: finite losses, and a checkpoint.

    Called by all processes; None but in the main one.
    """
    folder = Path(context.run_dir, FOLDER)
    if comm.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    comm.synchronize()
    settings = context.train | {
        "iterations": min(NUM_STEPS, context.train["iterations"]),
        "log_period": 1,
        "eval_period": 0,
        "eval_at_end": False,
        "fast_dev_run": False,
    }
    device = torch.device(context.device)
    memory.reset_peaks(device)
    started = time.perf_counter()
    with _quietly():
        train(
            device=context.device,
            model=context.part("model"),
            loader=context.part("loader"),
            optimizer=context.part("optimizer"),
            schedule=context.part("schedule"),
            evaluation=context.part("evaluation"),
            weights=None,  # another check has loaded them
            resume=False,
            run_dir=str(folder),
            settings=settings,
            checkpoint=context.checkpoint | {"kept": 1, "period": NUM_STEPS},
            recipe=dict(context.recipe),
            image_format=context.image_format,
        )
    seconds = time.perf_counter() - started
    if not comm.is_main_process():
        return None
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
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


def _evaluate(context: CheckContext) -> CheckResult | None:
    """One image of each process through the model, the evaluators and their tables and pictures."""
    evaluate = partial(context.part("evaluation"), limit=1)
    with _quietly():
        results = evaluate(context.part("model").to(context.device), Path(context.run_dir, FOLDER))
    if not comm.is_main_process():
        return None
    if not results["metrics"]:
        return fail("the evaluators gave no figure", "choose the evaluators of the dataset")
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


class Leader:
    """Tells the other processes, in the main one, which steps to take with it.

    They wait in `follow` for the next message, a name of `STEPS`, WAIT or END. A message is one
    all_gather, in which all but the main process give None.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._failed = False  # a step failed here: nobody knows where the others are

    def keep_waiting(self) -> None:
        """Let the others wait on; may be called often."""
        if time.monotonic() - self._last > PERIOD:
            self._send(WAIT)

    def run(self, name: str, context: CheckContext) -> CheckResult | None:
        """Take a step of `STEPS` in all processes."""
        self._send(name)
        try:
            return STEPS[name](context)
        except BaseException:
            self._failed = True
            raise

    def dismiss(self) -> None:
        """Let the others end."""
        if not self._failed:
            self._send(END)

    def _send(self, message: str) -> None:
        if comm.get_world_size() > 1:
            comm.all_gather(message)
        self._last = time.monotonic()


def follow(context: CheckContext) -> None:
    """Take the main process's steps. One that fails ends the process, and with it the run."""
    while (message := comm.all_gather(None)[0]) != END:
        if message != WAIT:
            STEPS[message](context)
