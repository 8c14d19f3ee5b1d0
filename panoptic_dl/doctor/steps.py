"""Two training steps and one evaluation step, as a run makes them, in a folder that goes away.

Several processes: the first makes the checks, the others wait, and take the steps with it.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from detectron2.utils import comm

from panoptic_dl.core import memory
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.doctor.context import Patient, Verdict, fail, ok
from panoptic_dl.doctor.machine import amount
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.train.train import train

NUM_STEPS = 2
FOLDER = "doctor"  # below the run's own
SPEAK = ("panoptic_dl.doctor", "panoptic_dl.train.console", "panoptic_dl.core.parallel")


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
    memory.reset_peaks(device)
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
            image_format=patient.image_format,
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


def make_evaluation_step(patient: Patient) -> Verdict | None:
    """One image of each process through the model, the evaluators and their tables and pictures."""
    evaluate = partial(patient.part("evaluation"), limit=1)
    with _quietly():
        results = evaluate(patient.part("model").to(patient.device), _folder(patient))
    if not comm.is_main_process():
        return None
    if not results["metrics"]:
        return fail("the evaluators gave no figure", "choose the evaluators of the dataset")
    number = results["num_images"]
    return ok(f"{number} image{'s' if number > 1 else ''}: {', '.join(results['metrics'])}")


COLLECTIVE_STEPS = {"training": make_training_steps, "evaluation": make_evaluation_step}


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


PERIOD = 60.0  # seconds; processes that hear nothing for half an hour give up
WAIT, END = "wait", "end"

Step = Callable[[Patient], Verdict | None]


class Leader:
    """The first process's word to the others."""

    def __init__(self) -> None:
        self._spoken = time.monotonic()
        self._lost = False  # a step failed here: nobody knows where the others are

    def keep_waiting(self) -> None:
        """Call it as often as you like."""
        if time.monotonic() - self._spoken > PERIOD:
            self._say(WAIT)

    def take(self, name: str, step: Step, patient: Patient) -> Verdict | None:
        """Take a step together with all others."""
        self._say(name)
        try:
            return step(patient)
        except BaseException:
            self._lost = True
            raise

    def dismiss(self) -> None:
        """The others may end."""
        if not self._lost:
            self._say(END)

    def _say(self, word: str) -> None:
        if comm.get_world_size() > 1:
            comm.all_gather(word)
        self._spoken = time.monotonic()


def follow(steps: dict[str, Step], patient: Patient) -> None:
    """What the other processes do. A step that fails ends the process, and with it the run."""
    while (word := comm.all_gather(None)[0]) != END:
        if word != WAIT:
            steps[word](patient)


def together(leader: Leader, name: str, step: Step) -> Step:
    """A check that all processes take part in."""
    return partial(leader.take, name, step)
