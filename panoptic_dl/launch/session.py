"""What every process of a run does first, and how an error ends it."""

import contextlib
import functools
import logging
import multiprocessing
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from PIL import Image
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.environment import describe, git, measured_on
from panoptic_dl.core.errors import (
    FAULT,
    LOST_PROCESS,
    how_it_ended,
    message_for_user,
    steady_output,
    steady_text,
)
from panoptic_dl.core.run_folder import (
    ERROR,
    LOG,
    NEWEST,
    STOPPED,
    ExitCode,
    Requeued,
    RunState,
    as_json,
    error_line,
    first_error_line,
    how_to_continue,
    note,
)
from panoptic_dl.launch.gpus import take_gpus
from panoptic_dl.launch.launcher import launch
from panoptic_dl.launch.signals import Interrupted, interruptible, requeue_when_stopped

OPEN_FILES = 65536  # of a process, where the system allows it


def exit_status(error: BaseException | None) -> tuple[str, int]:
    """The status and the exit code of a run that `error` has ended; None: it finished.

    | raised | status | exit code |
    | --- | --- | --- |
    | an error of which `message_for_user` has a message | failed | 1, one message |
    | FloatingPointError: a loss is not finite | failed | 76, one message |
    | Interrupted: stopped by a signal, all is saved | stopped | 75 |
    | KeyboardInterrupt: stopped, nothing was saved | stopped | 130 |
    | SystemExit, ProcessExitedException of a process that was started | by its code | its code |
    | the latter of one that a signal has killed | failed | 1, one message |
    | others, which are faults of the program | failed | 1, a traceback |
    """
    if error is None:
        return "finished", 0
    if isinstance(error, KeyboardInterrupt):
        saved = isinstance(error, Interrupted)
        return "stopped", ExitCode.SAVED if saved else ExitCode.INTERRUPTED
    if isinstance(error, FloatingPointError):
        return "failed", ExitCode.DIVERGED
    if isinstance(error, SystemExit | ProcessExitedException):
        code = error.exit_code if isinstance(error, ProcessExitedException) else error.code
        if isinstance(error, Requeued) or code in STOPPED:
            return "stopped", code  # type: ignore[return-value]
        number = code if isinstance(code, int) else int(code is not None)
        # Negative: killed by a signal.
        return "failed" if number else "finished", number if number >= 0 else ExitCode.ERROR
    return "failed", ExitCode.ERROR


@contextlib.contextmanager
def session(run_dir: str, state: RunState | None = None) -> Iterator[None]:
    """End this process as `exit_status` says if an error comes out of the `with` block.

    An error that a user can act on becomes one message on stderr, with the traceback in
    `run_dir/error.txt`. Of a fault of the program the traceback is printed, and what to do.

    Args:
        state: of the process that starts the run; gets the status and the error's first line.
    """
    folder = Path(run_dir)
    try:
        yield
    except BaseException as error:
        status, code = exit_status(error)
        text, trace = None, traceback.format_exc()
        how = ""
        if (folder / NEWEST).is_file():
            how = f"; {how_to_continue(folder)} goes on from the last checkpoint"
        parent = multiprocessing.parent_process()
        killed = ""
        if isinstance(error, ProcessExitedException) and error.exit_code < 0:
            killed = f"process {error.error_index} of the run {how_it_ended(error.exit_code)}"
        elif isinstance(error, KeyboardInterrupt) and parent and not parent.is_alive():
            killed = "the process that started the run was killed: mostly memory ran out"
        if killed and comm.is_main_process():
            text, trace = killed, f"error: {killed}\n"
            print(f"\nerror: {text}{how}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                (folder / ERROR).write_text(trace)
            if state is None:
                note(run_dir, status=status, error=text)
        elif isinstance(error, Exception) and not isinstance(error, ProcessExitedException):
            text, where = message_for_user(error), ""
            # A process that misses another one knows least.
            mode = "x" if str(text).startswith(LOST_PROCESS) else "w"
            with contextlib.suppress(OSError):  # a full disk must not hide the message
                if state is None or not state.is_used:
                    with (folder / ERROR).open(mode, errors="backslashreplace") as file:
                        file.write(trace)
                    where = f"(traceback: {folder / ERROR})"
            if text is None:
                text = error_line(trace)
                print(trace, file=sys.stderr)
                where = f"{FAULT}{ERROR}, {LOG} and .hydra/ of {folder}"
            print(f"\nerror: {text}\n{where}".rstrip(), file=sys.stderr, flush=True)
        elif type(error) is KeyboardInterrupt and comm.is_main_process():
            # Other processes are ended so when one of them failed, which prints why.
            print(f"\ninterrupted{how}", file=sys.stderr)
        if state is not None:
            line = text and text.partition("\n")[0][:500]
            if line is None and status == "failed":
                unknown = f"ended with exit code {code}, without a message"
                line = first_error_line(folder) or unknown
            state.end(status, line)
        if isinstance(error, SystemExit):
            raise
        raise SystemExit(code) from None
    if state is not None:
        state.end("finished")


def call_mode(config: Any, device: str, mode: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a mode's function in each process of a run, in a `session`, and note its metrics."""
    run_dir = config.run_dir
    with interruptible(), session(run_dir), requeue_when_stopped(config.launch.requeue):
        _begin(run_dir, config.seed, device)
        is_main, processes = comm.is_main_process(), comm.get_world_size()
        if is_main:
            counts = {"devices": processes if device == "cuda" else 0, "processes": processes}
            note(run_dir, environment=measured_on(device) | counts)
        results = mode()
        if is_main and results:
            note(run_dir, metrics=as_json(results.get("metrics")))
    return results


def start(work: Callable[..., Any], config: Any, allowed: tuple[str, ...]) -> Any:
    """Call `work(device, config, allowed)` in the processes that `config.launch` asks for.

    A mode with the key `launch_refused` gets there why they cannot start, and runs in one process.
    """
    take_gpus(config.launch.num_gpus)
    try:
        return launch(work, config, allowed, **config.launch)
    except ValueError as error:
        if "launch_refused" not in config.mode:
            raise
        config.mode.launch_refused = str(error)
        return launch(work, config, allowed, num_gpus=None)


def _begin(run_dir: str, seed: int | None, device: str) -> None:
    """Log to the console (main process) and to `run_dir`, seed, and save what the run stands on."""
    rank = comm.get_rank()
    # Loader workers of a process that was spawned would be spawned too: tens of seconds of imports.
    multiprocessing.set_start_method("fork", force=True)
    _allow_open_files()
    steady_output()
    log = _log_of(os.path.join(run_dir, LOG + (f".rank{rank}" if rank else "")))
    setup_logger.cache_clear()
    for name in ("panoptic_dl", "detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):  # of the job before, in a sweep
            logging.getLogger(name).removeHandler(handler)
        setup_logger(run_dir, distributed_rank=rank, name=name, abbrev_name=name)
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_for_console)
            if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stdout:
                handler.setStream(log)
    # Detectron2 calls torch.meshgrid the old way; nothing a user could act on.
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
    # Of large images that are read all the same.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    seed_all_rng(None if seed is None else seed + rank)
    if not comm.is_main_process():
        return
    folder = Path(run_dir)
    (folder / ERROR).unlink(missing_ok=True)  # of an attempt before this one
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


_log_of = functools.cache(steady_text)


def _allow_open_files() -> None:
    """Raise the limit of open files: every tensor that a loader process sends is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:  # -1: there is no limit
        soft = OPEN_FILES if hard < 0 else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if 0 <= soft < OPEN_FILES:  # slower, and keeps none open
        torch.multiprocessing.set_sharing_strategy("file_system")


def _is_for_console(record: logging.LogRecord) -> bool:
    """Whether the console shows a record; log.txt has all of them."""
    least = logging.INFO if record.name.startswith("panoptic_dl") else logging.WARNING
    # Detectron2 logs the traceback of an error, too, of which `session` prints one line.
    return record.levelno >= least and not record.exc_info


def _git_state() -> str:
    """Revision and local changes of the checkout that runs, or that there is none."""
    commands = ("rev-parse HEAD", "status --short", "diff HEAD")
    outputs = {command: git(command) for command in commands}
    if None in outputs.values():
        return "not a git checkout\n"
    return "".join(f"$ git {command}\n{output}" for command, output in outputs.items())
