"""train.fast_dev_run: everything that a run does, in a few iterations and on a few images."""

import functools
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.train.checkpoint import CheckpointFiles

NUM_ITERATIONS = 4
NUM_IMAGES = 4
FOLDER = "fast_dev_run"  # below the run's own, which stays free for the real run
Train = Callable[..., dict[str, Any]]

logger = logging.getLogger(__name__)


def with_fast_dev_run(train: Train) -> Train:
    """Decorate `train`: with `settings["fast_dev_run"]` its run is short and leaves no results.

    It evaluates and saves in the middle and at the end, on few images, logs to no logger, and
    writes to a folder of its own, whose last checkpoint is read again.
    """

    @functools.wraps(train)
    def train_or_try(**arguments: Any) -> dict[str, Any]:
        if not arguments["settings"]["fast_dev_run"]:
            return train(**arguments)
        logger.warning("fast_dev_run: a few iterations of everything, no results")
        limited = _limited(arguments)
        results = train(**limited)
        if comm.is_main_process():
            _, state = CheckpointFiles(limited["run_dir"]).newest_complete()
            limited["model"].load_state_dict(state["model"])
        logger.info("Read the last checkpoint again. fast_dev_run found nothing wrong")
        return results

    return train_or_try


def _limited(arguments: dict[str, Any]) -> dict[str, Any]:
    settings = arguments["settings"]
    # A schedule has no rate beyond its end.
    iterations = min(NUM_ITERATIONS, settings["iterations"])
    half = max(1, iterations // 2)
    return arguments | {
        "settings": settings
        | {"iterations": iterations, "log_period": 1, "eval_period": half, "eval_at_end": True},
        "checkpoint": arguments["checkpoint"] | {"period": half},
        "evaluation": partial(arguments["evaluation"], limit=NUM_IMAGES),
        "run_dir": _empty_folder(Path(arguments["run_dir"], FOLDER)),
        "resume": False,
        "loggers": None,
    }


def _empty_folder(folder: Path) -> str:
    """Replace the folder of an earlier try; every process calls this."""
    if comm.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    comm.synchronize()
    return str(folder)
