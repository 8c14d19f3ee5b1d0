"""The interface of loggers, and `Loggers`, which calls several.

Loggers work in the main process. Iterations count from 0, as in metrics.json.
"""

import contextlib
import io
import json
import logging
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.utils import comm
from PIL import Image
from torch import nn

from panoptic_dl.core.files import file_name_text, read_json, read_text, write_text
from panoptic_dl.core.run_folder import read_config, read_state
from panoptic_dl.evaluation.metrics import CLASS_CHARTS
from panoptic_dl.launch.session import exit_status
from panoptic_dl.report.results import class_metrics
from panoptic_dl.visualize.sheets import Sample

logger = logging.getLogger(__name__)
Metrics = Mapping[str, float]
PANELS = "panels.yaml"


@dataclass(frozen=True)
class Run:
    """A run that begins or is resumed."""

    folder: Path
    mode: str  # train | eval | benchmark
    start: int = 0  # the first iteration to come
    history: Sequence[Metrics] = ()  # earlier lines of metrics.json, each with "iteration"
    model: nn.Module | None = None


@dataclass(frozen=True)
class Details:
    """What an evaluation returns besides its metrics."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the evaluators
    samples: Sequence[Sample] = ()  # the first images, the same in every evaluation
    pictures: Sequence[Path] = ()  # files that were drawn


def is_evaluation(line: Metrics) -> bool:
    """Whether a line of metrics.json is of an evaluation, and not of a training step."""
    return "total_loss" not in line


def line_number(iteration: int, evaluation: bool) -> int:
    """A number that grows from line to line: an evaluation's comes after its iteration's."""
    return 2 * (iteration + 1) + evaluation


TAGS = {  # of a training step; `loss_NAME` becomes `loss/NAME`, and others go to `train/`
    "lr": "lr",
    "total_loss": "loss/total",
    "time": "time/iteration",
    "data_time": "time/data",
    "images_per_s": "time/images_per_s",
    "host_memory_MiB": "memory/host_MiB",
    "device_memory_MiB": "memory/device_MiB",
}


def tagged(line: Metrics) -> dict[str, float]:
    """The numbers of a line of metrics.json by their tags; `PQ` of an evaluation is `val/PQ`."""

    def tag(name: str) -> str:
        if is_evaluation(line):
            return f"val/{name}"
        section, name = ("loss", name[5:]) if name.startswith("loss_") else ("train", name)
        return TAGS.get(name, f"{section}/{name}")

    return {tag(name): value for name, value in line.items() if name != "iteration"}


def tagged_classes(details: Details) -> dict[str, float]:
    """The charted metric of each class that has one, such as `val_PQ/road`, in percent."""
    return {
        f"val_{metric}/{file_name_text(name)}": value
        for task, metric, _ in CLASS_CHARTS
        for name, value in class_metrics(details.results.get(task, {})).get(metric, {}).items()
        if not math.isnan(value)
    }


SIDE, QUALITY = 1024, 75  # pixels of the longer side, and of JPEG: logs stay small


def tagged_pictures(details: Details) -> dict[str, Image.Image]:
    """Ground truth beside prediction of the samples, `predictions/1` ..., and the drawn files."""
    pairs = [(sample.ground_truth, sample.prediction) for sample in details.samples]
    found = {
        f"predictions/{number}": _small(Image.fromarray(np.hstack(pair)))
        for number, pair in enumerate(pairs, start=1)
    }
    return found | tagged_files(details.pictures)


def tagged_files(files: Sequence[Path]) -> dict[str, Image.Image]:
    """Pictures by tags such as `pictures/worst`, without the sheet of the samples."""
    return {
        f"pictures/{file.stem}": _small(Image.open(file).convert("RGB"))
        for file in files
        if file.stem != "predictions"
    }


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    return picture


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


ABOUT = ("row", "command", "git", "environment", "config_hash", "seed", "published")  # of run.json
CHOICES = (  # groups whose options runs are told apart by
    *("dataset", "task", "backbone", "head", "recipe", "experiment", "hardware"),
    *("optimizer", "schedule", "loss", "augmentation"),
)
SETTINGS = (
    *("train.iterations", "train.batch_size", "train.precision", "train.clip_norm", "train.ema"),
    *("optimizer.lr", "optimizer.weight_decay", "schedule.warmup_iters", "seed"),
)
BESIDE = ("logger", "launch", "hydra", "run_dir", "resume", "mode")  # overrides of no consequence


@dataclass(frozen=True)
class Facts:
    """What run.json and the config say about a run."""

    config: Mapping[str, Any]  # resolved
    about: Mapping[str, Any]  # git revision, command, environment ...
    choices: Mapping[str, str]  # the options of `CHOICES`
    sweep: str | None
    parameters: Mapping[str, str | float]  # what runs are compared by


def facts_of(run: Run) -> Facts:
    """Read the facts of a run; of a folder without files they are empty."""
    record, config = read_state(run.folder), read_config(run.folder)
    chosen = record.get("choices") or {}
    choices = {group: str(chosen[group]) for group in CHOICES if chosen.get(group)}
    given = dict(each.lstrip("+~").partition("=")[::2] for each in record.get("overrides") or ())
    parameters = {k: v for k, v in given.items() if re.split(r"[./]", k)[0] not in BESIDE}
    parameters |= choices
    for name in SETTINGS:
        group, _, leaf = name.rpartition(".")
        value = (config.get(group) or {} if group else config).get(leaf)
        if isinstance(value, str | float | int):
            parameters[name] = value
    if run.model is not None:
        parameters["network.parameters"] = sum(p.numel() for p in run.model.parameters())
    return Facts(
        config=config,
        about={key: value for key, value in record.items() if key in ABOUT},
        choices=choices,
        sweep=record.get("sweep"),
        parameters=parameters,
    )


def run_id(folder: Path, file_name: str) -> str:
    """The id of a folder's run elsewhere, from a file; a new one is written there first."""
    file = folder / file_name
    if not file.exists():
        write_text(file, json.dumps({"id": secrets.token_hex(4)}) + "\n")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        known = read_json(file)["id"]
        if isinstance(known, str) and known.isalnum():
            return known
    raise ValueError(f"{file} is damaged; remove it, and a new run is begun there")


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard."""

    section: str
    title: str
    tags: Sequence[str]  # of curves, as regular expressions, or of pictures
    question: str  # that it answers
    pictures: bool = False


def panels() -> list[Panel]:
    """The panels of the dashboard."""
    return [Panel(**each) for each in yaml.safe_load(read_text(Path(__file__).with_name(PANELS)))]


class Logger:
    """Base class of loggers, which does nothing; subclasses override what they log.

    Whatever a method raises, training goes on, and the logger is not called again.
    """

    def start(self, run: Run) -> None:
        """Begin, or go on with the run that left the same folder."""

    def step(self, iteration: int, metrics: Metrics) -> None:
        """Log losses, learning rate, times and memory of a training step, as in metrics.json."""

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        """Log metrics in percent of the state after an iteration; NaN: undefined."""

    def measured(self, metrics: Metrics, pictures: Sequence[Path]) -> None:
        """Log metrics of a run without iterations, such as a benchmark; names have units."""

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        """Log a checkpoint that was written; `best`: the best of the run so far."""

    def finish(self, status: str, exit_code: int) -> None:
        """End the run, with status finished | stopped | failed. The last call."""


class Loggers:
    """Calls all loggers in the main process; one that raises is left out from there on.

    The run of a `with` block ends with the block: `finish` is called, if `start` was.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None) -> None:
        """`loggers` by their names in the config; ValueError where one is no logger."""
        for name, each in (loggers or {}).items():
            if not isinstance(each, Logger):
                raise ValueError(
                    f"logger.{name} is no logger; choose options of the group, such as "
                    "logger=[tensorboard,wandb], and set their keys: logger.wandb.project=NAME"
                )
        self._loggers = dict(loggers or {}) if comm.is_main_process() else {}
        self._started = False

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._started:
            self._call("finish", *exit_status(error))
        self._loggers = {}

    def start(self, run: Run) -> None:
        """Begin a run in all loggers."""
        self._started = True
        self._call("start", run)

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        for name, each in list(self._loggers.items()):
            try:
                getattr(each, method)(*arguments, **options)
            except Exception as error:
                del self._loggers[name]
                said = f"{type(error).__name__}: {str(error)[:500]}"
                logger.warning(
                    f"logger={name} failed and is left out from here on; the run and metrics.json "
                    f"go on ({said})"
                )
                logger.debug("The traceback", exc_info=True)
                with contextlib.suppress(Exception):  # it may still close what is open
                    each.finish("failed", 1)

    step = partialmethod(_call, "step")
    evaluation = partialmethod(_call, "evaluation")
    measured = partialmethod(_call, "measured")
    checkpoint = partialmethod(_call, "checkpoint")
