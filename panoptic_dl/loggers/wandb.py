"""Logger of Weights & Biases: one run there for each run folder, also when that is resumed.

W&B's own step may only grow. Each iteration has two of them, for its training step and its
evaluation, so that a resumed run knows what W&B has already. What it has is read back, from the
server or from its local files; what it lacks is sent from metrics.json; what is trained again is
not sent again. Tables would be artifacts, whose copies an offline run keeps, so there are none:
values of classes are curves, and pictures are JPEGs.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from PIL import Image

from panoptic_dl.core.settings import require_value
from panoptic_dl.evaluation.metrics import PUBLISHED, is_better
from panoptic_dl.loggers.base import (
    Details,
    Facts,
    Logger,
    Metrics,
    Run,
    facts_of,
    is_evaluation,
    line_number,
    run_id,
    tagged,
    tagged_classes,
    tagged_files,
    tagged_pictures,
)

try:
    import wandb
except ImportError:  # an extra
    wandb = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

MODES = (None, "online", "offline", "disabled")
LOG_CHECKPOINTS = ("none", "best", "all")
LINE, MEDIA, ARTIFACT = 30.0, 120.0, 600.0  # seconds to wait for one
UNFINISHED = 10.0  # seconds to wait for uploads of a run that was stopped or failed
STAGING = "WANDB_DATA_DIR"  # where copies of artifacts wait to be sent, below the home by default
MAX_TAG = 64  # letters
ID_FILE = "wandb.json"


class WandbLogger(Logger):
    """Logs what metrics.json has, and the config, pictures and checkpoints."""

    def __init__(
        self,
        *,
        project: str,
        name: str,
        entity: str | None = None,
        mode: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        pictures: bool = True,
        log_checkpoints: str = "none",
        init_timeout: float = 60.0,
        finish_timeout: float = 300.0,
    ) -> None:
        """
        Args:
            project, entity, name, group, tags: as W&B has them. What is not given here its own
                variables say, such as WANDB_TAGS; then the group is the run's sweep.
            mode: online | offline | disabled; None: what WANDB_MODE or `wandb offline` says, else
                online. Without a key it is offline.
            pictures: send the pictures of evaluations.
            log_checkpoints: none | best | all.
            init_timeout: seconds to wait for the server before the run goes on offline.
            finish_timeout: seconds that uploads may take at the end.

        Raises:
            ValueError: an argument is none of its values, or the package wandb is missing.
        """
        if wandb is None:
            raise ValueError("logger=wandb needs an extra: pip install 'panoptic-dl[wandb]'")
        require_value("logger.wandb.log_checkpoints", log_checkpoints, str, LOG_CHECKPOINTS)
        require_value("logger.wandb.mode", mode, str | None, MODES)
        require_value("logger.wandb.init_timeout", init_timeout, float, above=0)
        require_value("logger.wandb.finish_timeout", finish_timeout, float, above=0)
        self._names = {"project": project, "entity": entity, "name": name}
        self._mode, self._group, self._tags = mode, group, list(tags)
        self._pictures, self._log_checkpoints = pictures, log_checkpoints
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        self._run: Any = None  # W&B's
        self._ended = False  # disabled, given up, or finished
        self._staging: str | None = None  # the folder, where this logger has set it
        self._last = -1  # W&B's last step
        self._files: Callable[[], list[Path]] = list  # local files of the run
        self._sync = "wandb sync"  # the command that sends what was not sent
        self._best: dict[str, tuple[float, int]] = {}  # value and iteration

    def start(self, run: Run) -> None:
        # Twice: where the server does not answer, the run is begun again, offline.
        self._call(lambda: self._begin(run), 2 * self._init_timeout + 60, "starting")

    def step(self, iteration: int, metrics: Metrics) -> None:
        self._call(lambda: self._log_line(iteration, metrics), LINE, "a line")

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        self._call(lambda: self._log_line(iteration, metrics, details), MEDIA, "an evaluation")

    def measured(self, metrics: Metrics, pictures: Sequence[Path]) -> None:
        def log() -> None:
            named = {f"{self._run.job_type}/{name}": value for name, value in metrics.items()}
            self._run.summary.update(named)
            self._log(0, 1, _images(tagged_files(pictures)))

        self._call(log, MEDIA, "metrics")

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        def log() -> None:
            metadata = {"iteration": iteration}
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata=metadata)
            artifact.add_file(str(file), name="model.pth")  # copied: the run may remove the file
            aliases = ["latest", f"iteration-{iteration}", *(["best"] if best else [])]
            self._run.log_artifact(artifact, aliases=aliases)

        if self._log_checkpoints == "all" or (self._log_checkpoints == "best" and best):
            self._call(log, ARTIFACT, "a checkpoint")

    def finish(self, status: str, exit_code: int) -> None:
        def end() -> None:
            if status == "stopped":
                self._run.mark_preempting()  # it will be resumed: not "failed"
            self._run.summary["status"] = status
            self._run.finish(exit_code=exit_code)
            wandb.teardown(exit_code)  # its process ends when all is on the disk
            folder = Path(self._staging or "")
            waiting = self._run._finish_timed_out or any(folder.glob("offline-run-*"))
            if self._staging and not waiting:  # all copies are sent
                shutil.rmtree(folder / "artifacts", ignore_errors=True)

        seconds = self._finish_timeout if status == "finished" else UNFINISHED
        try:
            self._call(end, seconds + 5, "finishing")
        finally:
            self._ended = True
            if self._staging is not None and os.environ.get(STAGING) == self._staging:
                del os.environ[STAGING]

    def _call(self, call: Callable[[], None], timeout: float, what: str) -> None:
        """Call W&B, or give it up after `timeout` seconds."""
        if not self._ended and not _returns(call, timeout):
            self._ended = True
            _kill_service()  # or the end of the program would wait for it
            _repair(self._files())
            raise TimeoutError(
                f"W&B: {what} took longer than {timeout:g} s; what was not sent is kept: "
                f"`{self._sync}`"
            )

    def _begin(self, run: Run) -> None:
        folder = run.folder / "wandb"
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):  # W&B would take another folder
            raise PermissionError(f"{folder} cannot be written")
        settings = wandb.setup().settings
        mode = self._mode or settings.mode
        if mode == "disabled":
            self._ended = True
            return
        facts = facts_of(run)
        identity = run_id(run.folder, ID_FILE)
        self._files = lambda: sorted(folder.glob(f"*run-*-{identity}/run-{identity}.wandb"))
        _repair(self._files())  # an attempt before this one may have been killed
        self._sync = f"wandb sync {os.path.relpath(run.folder)}/wandb/*run-*-{identity}"
        reason = None
        if mode == "online":
            try:
                if _has_key(settings.base_url):
                    self._run = self._init(run, facts, identity, "online")
                else:
                    reason = f"there is no key for {urlsplit(settings.base_url).netloc}"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                wandb.teardown()  # its process still holds the run that could not be begun
        if self._run is not None:  # earlier attempts' lines are on the server, or are sent again
            self._sync = f"wandb sync {os.path.relpath(Path(self._run.dir).parent)}"
            self._last = self._run.starting_step - 1
            logger.info("W&B: %s", self._run.url)
        else:
            self._last = _last_step(self._files())
            self._run = self._init(run, facts, identity, "offline")
            if reason is None:
                logger.info("W&B: offline; send it with `%s`", self._sync)
            else:
                logger.warning(
                    f"W&B: {reason}. The run is kept offline; send it later with `wandb login` and "
                    f"`{self._sync}`"
                )
        about = {
            "run": facts.about,
            "network": {"parameters": facts.parameters.get("network.parameters")},
        }
        self._run.config.update({**facts.config, **about}, allow_val_change=True)
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        for line in run.history:
            self._log_line(int(line["iteration"]), line)

    def _init(self, run: Run, facts: Facts, identity: str, mode: str) -> Any:
        if STAGING not in os.environ:
            self._staging = os.environ[STAGING] = str((run.folder / "wandb").absolute())
        tags = [f"{group}={name}" for group, name in facts.choices.items()]
        own = self._tags or os.environ.get("WANDB_TAGS", "").split(",")
        return wandb.init(
            **cast(Any, self._names),
            id=identity,
            resume="allow",
            reinit="create_new",  # of a run that was given up nothing is left behind
            mode=cast(Any, mode),
            dir=str(run.folder),
            group=self._group or os.environ.get("WANDB_RUN_GROUP") or facts.sweep,
            job_type=run.mode,
            tags=list(dict.fromkeys(tag[:MAX_TAG] for tag in (*tags, *own) if tag)),
            settings=wandb.Settings(
                console="off",  # log.txt has it, and a print must never wait for W&B
                silent=True,
                init_timeout=self._init_timeout,
                finish_timeout=self._finish_timeout,
                disable_job_creation=True,
                x_transaction_log_flush_interval=2.0,  # seconds; by default a kill loses 15
            ),
        )

    def _log(self, iteration: int, number: int, values: Mapping[str, Any]) -> None:
        """Log `values` as W&B's step `number`."""
        self._run.log({"iteration": iteration, **values}, step=number, commit=True)
        self._last = number

    def _log_line(self, iteration: int, metrics: Metrics, details: Details | None = None) -> None:
        """Log a line of metrics.json, unless W&B has it already."""
        evaluation = is_evaluation(metrics)
        number = line_number(iteration, evaluation)
        if number > self._last:
            values: dict[str, Any] = tagged(metrics)
            if details is not None:
                values |= tagged_classes(details)
            if details is not None and self._pictures:
                values |= _images(tagged_pictures(details))
            self._log(iteration, number, values)
        if evaluation:
            self._summarize(iteration, metrics)

    def _summarize(self, iteration: int, metrics: Metrics) -> None:
        for name in PUBLISHED:
            value = metrics.get(name)
            if value is None or math.isnan(value):
                continue
            if name not in self._best or is_better(name, value, self._best[name][0]):
                self._best[name] = (value, iteration)
            best, at = self._best[name]
            self._run.summary.update(
                {f"{name}/last": value, f"{name}/best": best, f"{name}/best_iteration": at}
            )


def _images(pictures: Mapping[str, Image.Image]) -> dict[str, Any]:
    return {tag: wandb.Image(picture, file_type="jpg") for tag, picture in pictures.items()}


def _has_key(server: str) -> bool:
    """Whether wandb has a key, or finds one by itself: nobody is asked for it."""
    from wandb.sdk.lib.wbauth import authenticate_session

    auth = authenticate_session(host=server, source="wandb", prompt=False, update_session=False)
    return auth is not None


# A `.wandb` file is a LevelDB log after a header of 7 bytes: blocks of 32 KiB, in them pieces of a
# checksum (4 bytes), a length (2) and a kind (1), little-endian.
HEADER, BLOCK, PIECE = 7, 32 * 1024, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _last_step(files: Sequence[Path]) -> int:
    """W&B's last step in the history of a run's local files; -1: none."""
    messages = (message for file in files for _, message in _read_records(file))
    histories = (m.history for m in messages if m.WhichOneof("record_type") == "history")
    return max((history.step.num for history in histories), default=-1)


def _repair(files: Sequence[Path]) -> None:
    """Cut off a torn record, where `wandb sync` gives up; remove files without one of a run."""
    for file in files:
        records = list(_read_records(file))
        if all(message.WhichOneof("record_type") != "run" for _, message in records):
            file.unlink()
        else:
            os.truncate(file, records[-1][0])


def _read_records(file: Path) -> Iterator[tuple[int, Any]]:
    """The complete records of a `.wandb` file, wandb's messages, each with the byte of its end."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    data = file.read_bytes()
    at, parts = HEADER, b""
    while at + PIECE.size <= len(data):
        if BLOCK - at % BLOCK < PIECE.size:  # too little of the block is left for a piece
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = PIECE.unpack_from(data, at)
        part = data[at + PIECE.size : at + PIECE.size + length]
        if len(part) < length or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        at += PIECE.size + length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            yield at, messages.Record.FromString(parts)


SERVICE = "wandb-core"  # the process that wandb starts


def _returns(call: Callable[[], Any], timeout: float) -> bool:
    """Whether `call` returns in time; it is made in a thread that ends with the program."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            call()
            future.set_result(None)
        except BaseException as error:
            # SystemExit and the like must not end the run.
            other = RuntimeError(f"{type(error).__name__}: {error}")
            future.set_exception(error if isinstance(error, Exception) else other)

    threading.Thread(target=work, name="wandb", daemon=True).start()
    if not wait([future], timeout).done:
        return False
    future.result()
    return True


def _kill_service() -> None:
    """Kill wandb's process, a child of this one; the next run of a sweep can start another."""
    for file in Path("/proc/self/task").glob("*/children"):
        for number in file.read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{number}/comm").read_text().strip() == SERVICE:
                    os.kill(int(number), signal.SIGKILL)
    with contextlib.suppress(Exception):  # it finds its process gone
        _returns(wandb.teardown, 5.0)
