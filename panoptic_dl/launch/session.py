"""What every process of a run does first: logging, seeds, a record of what ran."""

import contextlib
import logging
import multiprocessing
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.environment import describe, git
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.launch.signals import Interrupted


def begin(run_dir: str, seed: int | None, device: str) -> None:
    """Log to the console (main process) and to `run_dir`, seed, and save what the run stands on.

    Args:
        run_dir: gets log.txt, environment.txt, and git.txt with the revision and local changes.
        seed: of Python, numpy and torch; each process adds its rank. None: a random one.
        device: `cuda` or `cpu`.
    """
    rank = comm.get_rank()
    # Loader workers of a process that was spawned would be spawned too: tens of seconds of imports.
    multiprocessing.set_start_method("fork", force=True)
    setup_logger.cache_clear()
    for name in ("panoptic_dl", "detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):  # of the job before, in a sweep
            logging.getLogger(name).removeHandler(handler)
        setup_logger(run_dir, distributed_rank=rank, name=name, abbrev_name=name)
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_for_people)
    # Detectron2 calls torch.meshgrid the old way; nothing a user could act on.
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
    seed_all_rng(None if seed is None else seed + rank)
    if not comm.is_main_process():
        return
    folder = Path(run_dir)
    (folder / "error.txt").unlink(missing_ok=True)  # of an attempt before this one
    for name, text in (("environment.txt", describe() + "\n"), ("git.txt", _git_state())):
        with (folder / name).open("a") as file:  # a resumed run adds to its record
            file.write(f"# {datetime.now():%Y-%m-%d %H:%M:%S}\n{text}")
    logging.getLogger("panoptic_dl").info(
        "Running on %s (%d process%s, %d CPU threads each); everything goes to %s",
        torch.cuda.get_device_name() if device == "cuda" else "the CPU",
        comm.get_world_size(),
        "es" if comm.get_world_size() > 1 else "",
        torch.get_num_threads(),
        os.path.relpath(run_dir),
    )


def _for_people(record: logging.LogRecord) -> bool:
    """What the console shows; log.txt has everything."""
    if record.exc_info:  # Detectron2's traceback, of an error that we say in one line
        return False
    if record.name.startswith("panoptic_dl"):
        return record.levelno >= logging.INFO
    return record.levelno >= logging.WARNING


@contextlib.contextmanager
def user_errors(run_dir: str) -> Iterator[None]:
    """Turn an error that a user can cure into one message and an exit code; see `ExitCode`.

    The traceback is kept in `run_dir/error.txt`.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        file = Path(run_dir, "error.txt")
        with contextlib.suppress(OSError):  # a full disk must not hide the message
            file.write_text(traceback.format_exc())
        print(f"\nerror: {error}\n(traceback: {file})", file=sys.stderr, flush=True)
        raise SystemExit(exit_status(error)[1]) from None
    except Interrupted as stop:  # whose log line says how to go on
        raise SystemExit(exit_status(stop)[1]) from None
    except KeyboardInterrupt as stop:
        there = Path(run_dir, "last_checkpoint").is_file()
        how = f"; run_dir={run_dir} resume=true goes on from the last checkpoint" if there else ""
        if comm.is_main_process():  # others are ended so when one of them failed, which says why
            print(f"\ninterrupted{how}", file=sys.stderr)
        raise SystemExit(exit_status(stop)[1]) from None
    except ProcessExitedException as error:  # one of our processes ended, and said why
        raise SystemExit(error.exit_code) from None


def exit_status(error: BaseException | None) -> tuple[str, int]:
    """Return the status, as in run.json, and the exit code of a run that raised `error` or None."""
    if error is None:
        return "finished", 0
    if isinstance(error, KeyboardInterrupt):
        saved = isinstance(error, Interrupted)
        return "stopped", ExitCode.SAVED if saved else ExitCode.INTERRUPTED
    diverged = isinstance(error, FloatingPointError)
    return "failed", ExitCode.DIVERGED if diverged else ExitCode.ERROR


def _git_state() -> str:
    """Revision and local changes of the checkout that runs, or that there is none."""
    try:
        return "".join(
            f"$ git {command}\n" + git(command)
            for command in ("rev-parse HEAD", "status --short", "diff HEAD")
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout\n"
