"""What every process of a run does first, and how an error ends it."""

import contextlib
import functools
import logging
import multiprocessing
import os
import resource
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.environment import describe, git, gpus_unused, measured_on
from panoptic_dl.core.errors import (
    FAULT,
    LOST_PROCESS,
    how_it_ended,
    message_for_user,
    steady_output,
    steady_text,
)
from panoptic_dl.core.files import PROGRAM, visible
from panoptic_dl.core.parallel import OUTPUT
from panoptic_dl.core.run_folder import (
    ERROR,
    LOG,
    NEWEST,
    STOPPED,
    Ended,
    ExitCode,
    Requeued,
    RunState,
    as_json,
    error_line,
    first_error_line,
    how_to_continue,
)
from panoptic_dl.launch.gpus import take_gpus
from panoptic_dl.launch.launcher import launch
from panoptic_dl.launch.machines import LostMachine
from panoptic_dl.launch.signals import Interrupted, interruptible, requeue_when_stopped

WORDS = Path(__file__).with_name("last_words.txt")
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
    | LostMachine: another machine has ended | by its code | its code |
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
    if isinstance(error, SystemExit | ProcessExitedException | LostMachine):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        if isinstance(error, Requeued) or code in STOPPED:
            return "stopped", code  # type: ignore[return-value]
        number = code if isinstance(code, int) else int(code is not None)
        # Negative: killed by a signal.
        return "failed" if number else "finished", number if number >= 0 else ExitCode.ERROR
    return "failed", ExitCode.ERROR


def _killed(error: BaseException) -> str | None:
    """Which process of a run was killed, if that is what `error` tells, and the likely reason."""
    parent = multiprocessing.parent_process()
    if isinstance(error, ProcessExitedException) and error.exit_code < 0:
        return f"process {error.error_index} of the run {how_it_ended(error.exit_code)}"
    if isinstance(error, KeyboardInterrupt) and parent and not parent.is_alive():
        return "the process that started the run was killed: mostly memory ran out"
    return None


@contextlib.contextmanager
def session(run_dir: str, state: RunState | None = None, *, ends: bool = True) -> Iterator[None]:
    """End this process as `exit_status` says if an error comes out of the `with` block.

    An error that a user can act on becomes one message on stderr, with the traceback in
    `run_dir/error.txt`. Of a fault of the program the traceback is printed, and what to do. While
    the state waits, a run's folder is left as it is. In the process that starts the run, `ends`,
    the state is given status and error.
    """
    folder = Path(run_dir)
    try:
        yield
    except BaseException as error:
        status, code = exit_status(error)
        line, trace = getattr(error, "line", None), traceback.format_exc()
        waits = state is not None and state.waits and not state.record()
        text, killed, where, how = None, _killed(error), "", ""
        if (folder / NEWEST).is_file():
            how = f"; {how_to_continue(folder)} goes on from the last checkpoint"
        if killed and comm.is_main_process():
            text, trace = f"{killed}{how}", f"error: {killed}\n"
        elif isinstance(error, Exception) and not isinstance(error, ProcessExitedException):
            text = message_for_user(error)
            if text is None:
                text = error_line(trace)
                print(trace, file=sys.stderr)
                files = f"{ERROR}, {LOG} and .hydra/ of {folder}"
                where = f"{FAULT}{'these lines' if waits else files}"
        elif type(error) is KeyboardInterrupt and comm.is_main_process():
            # Other processes are ended so when one of them failed, which prints why.
            print(f"\ninterrupted{how}", file=sys.stderr)
        if text is not None:
            line = text.partition("\n")[0][:500]
            # A process that misses another one knows least.
            mode = "x" if text.startswith(LOST_PROCESS) else "w"
            with contextlib.suppress(OSError):  # a full disk must not hide the message
                if not waits:
                    with (folder / ERROR).open(mode, errors="backslashreplace") as file:
                        file.write(trace)
                    where = where or f"(traceback: {folder / ERROR})" * (not killed)
            print(visible(f"\nerror: {text}\n{where}").rstrip(), file=sys.stderr, flush=True)
        if state is not None and killed and not ends:
            state.note(status=status, error=line)
        if state is not None and ends:
            if line is None and status == "failed":
                unknown = f"ended with exit code {code}, without a message"
                line = first_error_line(folder) or unknown
            state.end(status, line)
        if isinstance(error, SystemExit):
            raise
        raise Ended(code, line) from None
    if state is not None and ends:
        state.end("finished")


_on_acceptance: Callable[[], None] | None = None


def accept() -> None:
    """Accept this start: from here on it changes the folder of a run that was there before.

    Every process calls it when the checks of its mode have passed. A mode that does not is accepted
    when it is done.
    """
    global _on_acceptance
    action, _on_acceptance = _on_acceptance, None
    if action is not None:
        action()


def call_mode(
    config: Any, device: str, mode: Callable[[], dict[str, Any]], state: RunState | None = None
) -> dict[str, Any]:
    """Call a mode's function in each process of a run, in a `session`, and note its metrics."""
    global _on_acceptance
    run_dir, requeue, began = config.run_dir, config.launch.requeue, time.monotonic()
    state = state or RunState(run_dir, writes=False)
    with interruptible(), session(run_dir, state, ends=False), requeue_when_stopped(requeue):
        unused = [gpus_unused(device, comm.get_world_size())] * (
            config.launch.get("num_gpus") is None
        )
        log = _begin(run_dir, config.seed, device, [*state.remarks, *filter(None, unused)])
        _on_acceptance = partial(_accept, device, state, log)
        if not state.waits:
            accept()
        try:
            results = mode()
            accept()
        finally:
            _on_acceptance = None
        if comm.is_main_process():
            if results:
                state.note(metrics=as_json(results.get("metrics")))
            if text := _last_words(config, results, time.monotonic() - began):
                logging.getLogger("panoptic_dl").info("%s", text)
    return results


def _last_words(config: Any, results: Mapping[str, Any], seconds: float) -> str:
    """What a run has made, and a useful next command; "" of modes that say it themselves."""
    from jinja2 import Template

    folder = Path(config.run_dir)
    return Template(WORDS.read_text()).render(
        config=config,
        results=results,
        time=timedelta(seconds=round(seconds)),
        folder=shlex.quote(os.path.relpath(folder)),
        there=lambda *names: [name for name in names if (folder / name).exists()],
        program=PROGRAM,
    )


def start(work: Callable[..., Any], config: Any, *more: Any) -> Any:
    """Call `work(device, config, *more)` in the processes that `config.launch` asks for.

    A mode with the key `launch_refused` gets there why they cannot start, and runs in one process.
    """
    take_gpus(config.launch.num_gpus)
    try:
        return launch(work, config, *more, **config.launch)
    except ValueError as error:
        if "launch_refused" not in config.mode:
            raise
        config.mode.launch_refused = str(error)
        return launch(work, config, *more, num_gpus=0)


def _begin(run_dir: str, seed: int | None, device: str, remarks: Sequence[str]) -> MemoryHandler:
    """Log to the console (main process), and seed; return what keeps the lines for log.txt."""
    rank = comm.get_rank()
    log = MemoryHandler(sys.maxsize, logging.CRITICAL + 1)
    # Loader workers of a process that was spawned would be spawned too: tens of seconds of imports.
    multiprocessing.set_start_method("fork", force=True)
    _allow_open_files()
    steady_output()
    setup_logger.cache_clear()
    for name in ("panoptic_dl", "detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):  # of the job before, in a sweep
            logging.getLogger(name).removeHandler(handler)
        setup_logger(distributed_rank=rank, name=name, abbrev_name=name)
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_made_visible)
            handler.addFilter(_is_for_console)
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(OUTPUT)
        logging.getLogger(name).addHandler(log)
    # Detectron2 calls torch.meshgrid the old way; nothing a user could act on.
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
    seed_all_rng(None if seed is None else seed + rank)
    if rank > 0:
        return log
    place = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    processes = f"{comm.get_world_size()} process{'es' * (comm.get_world_size() > 1)}"
    logging.getLogger("panoptic_dl").info(
        f"Running on {place} ({processes}, {torch.get_num_threads()} CPU threads each); everything "
        f"goes to {os.path.relpath(run_dir)}"
    )
    for remark in remarks:
        logging.getLogger("panoptic_dl").warning(remark)
    return log


def _accept(device: str, state: RunState, log: MemoryHandler) -> None:
    """Write what was kept back: the config, the record, what the run stands on, the log."""
    folder, rank, processes = state.folder, comm.get_rank(), comm.get_world_size()
    if rank == 0:
        if state.waits:
            state.accept()
        (folder / ERROR).unlink(missing_ok=True)  # of an attempt before this one
        counts = {"devices": processes if device == "cuda" else 0, "processes": processes}
        state.note(environment=measured_on(device) | counts)
        for name, text in (("environment.txt", describe() + "\n"), ("git.txt", _git_state())):
            with (folder / name).open("a") as file:  # a resumed run adds to its record
                file.write(f"# {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}\n{text}")
    state.waits = False
    lines = logging.StreamHandler(_log_of(str(folder / (LOG + f".rank{rank}" * (rank > 0)))))
    form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"  # as Detectron2 has it
    lines.setFormatter(logging.Formatter(form, datefmt="%m/%d %H:%M:%S"))
    lines.addFilter(_made_visible)
    log.setTarget(lines)
    log.flush()
    log.capacity = 0  # from here on each line is passed on at once


def _made_visible(record: logging.LogRecord) -> bool:
    """Names from files reach a terminal or log.txt without what controls it; a filter."""
    if record.name.startswith("panoptic_dl"):
        record.msg, record.args = visible(record.getMessage()), None
    return True


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
    is_shown_elsewhere = record.exc_info or getattr(record, "is_drawn", False)
    return record.levelno >= least and not is_shown_elsewhere


def _git_state() -> str:
    """Revision and local changes of the checkout that runs, or why they are not known."""
    commands = ("rev-parse HEAD", "status --short", "diff HEAD")
    try:
        outputs = zip(commands, git(*commands), strict=True)
    except ValueError as error:
        if "safe.directory" in str(error):
            logging.getLogger("panoptic_dl").warning("No revision is recorded. git: %s", error)
        return f"{error}\n"
    return "".join(f"$ git {command}\n{output}" for command, output in outputs)
