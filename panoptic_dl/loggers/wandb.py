"""Weights & Biases: one run there for each run folder, also when that is stopped and goes on.

Whether Weights & Biases can be reached with a key; nobody is ever asked for one.

What Weights & Biases keeps in a run's folder: the run's id, and what it has written down.

A `.wandb` file is a LevelDB log after a header of 7 bytes: blocks of 32 KiB, in them pieces of a
checksum (4 bytes), a length (2) and a kind (1: whole, 2: first, 3: middle, 4: last), little-endian.

Evaluations as Weights & Biases shows them: images with masks, tables of classes, charts.

K classes.

What figures are called in Weights & Biases: the part before the slash is a section there.

The process that wandb starts beside ours, when it has to be given up.
"""

import contextlib
import json
import logging
import math
import netrc
import os
import secrets
import signal
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import wandb

from panoptic_dl.core.files import write_text
from panoptic_dl.evaluation.metrics import CLASS_CHARTS, PUBLISHED, is_better
from panoptic_dl.loggers.base import (
    Confusions,
    Details,
    Figures,
    Logger,
    NotInTime,
    Patience,
    Run,
    is_evaluation,
)
from panoptic_dl.report.results import Table, class_tables
from panoptic_dl.visualize.sheets import Sample

MODES = ("online", "offline", "disabled")
OLD_SERVER = "https://api.wandb.ai"  # whose keys are those of the default one, too
ALIASES = {"dryrun": "offline", "run": "online"}  # older names that wandb knows


def choose_mode(asked: str | None) -> tuple[str, str | None]:
    """The mode of a run, and why it is not the one that was asked for, or None.

    Args:
        asked: of `MODES`; None: what WANDB_MODE or `wandb offline` says, else online.
    """
    import wandb

    settings = wandb.setup().settings
    mode = asked or settings.mode
    mode = ALIASES.get(mode, mode)
    servers = [settings.base_url]
    if settings.base_url == wandb.Settings.model_fields["base_url"].default:
        servers.append(OLD_SERVER)
    if mode == "online" and not settings.api_key and not has_key(servers):
        return "offline", f"there is no key for {urlsplit(settings.base_url).netloc}"
    return mode, None


def has_key(servers: Sequence[str]) -> bool:
    """Whether wandb finds a key for a server by itself: in the environment or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        try:
            known = netrc.netrc(file.expanduser())
        except (OSError, netrc.NetrcParseError):
            continue
        entries = [known.authenticators(urlsplit(server).netloc) for server in servers]
        if any(entry and entry[2] for entry in entries):
            return True
    return False


ID_FILE = "wandb.json"
HEADER, BLOCK, PIECE = 7, 32 * 1024, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def run_id(folder: Path) -> str:
    """The id of the folder's W&B run; a new one is written down first.

    Raises:
        ValueError: the file with the id is damaged.
        OSError: it cannot be written.
    """
    file = folder / ID_FILE
    try:
        known: Any = json.loads(file.read_text())["id"]
    except FileNotFoundError:
        known = secrets.token_hex(4)
        write_text(file, json.dumps({"id": known}) + "\n")
    except (ValueError, KeyError, TypeError):
        known = None
    if not isinstance(known, str) or not known.isalnum():
        raise ValueError(f"{file} is damaged; remove it, and a new W&B run is begun")
    return known


def last_step(folder: Path, run_id: str) -> int:
    """W&B's last step of a run in the files that it left here; -1: none."""
    return max(
        (step for file in _files(folder, run_id) for step in steps(file)),
        default=-1,
    )


def steps(file: Path) -> Iterator[int]:
    """W&B's steps of the history in a `.wandb` file."""
    for data in records(file.read_bytes()):
        record = _message(data)
        if record.WhichOneof("record_type") == "history":
            yield record.history.step.num


def _files(folder: Path, run_id: str) -> list[Path]:
    return sorted((folder / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb"))


def mend(folder: Path, run_id: str) -> None:
    """Cut off what a kill has torn, in the files of a run that nobody writes any more.

    `wandb sync` gives up at a torn record, and does not send the files that follow: those of the
    attempts that went on. A file in which nothing of the run is whole is removed.
    """
    for file in _files(folder, run_id):
        data = file.read_bytes()
        whole = list(_records(data))
        kinds = {_message(record).WhichOneof("record_type") for _, record in whole}
        if "run" not in kinds:
            file.unlink()
        elif whole[-1][0] < len(data):
            os.truncate(file, whole[-1][0])


def records(data: bytes) -> Iterator[bytes]:
    """The whole records of a `.wandb` file's bytes; one that a kill has torn is the end of it."""
    return (record for _, record in _records(data))


def _message(record: bytes) -> Any:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    return messages.Record.FromString(record)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """With where each ends."""
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
            yield at, parts


SECTIONS = {
    "time": "speed",
    "data_time": "speed",
    "images_per_s": "speed",
    "host_memory_MiB": "memory",
    "device_memory_MiB": "memory",
}


def of_step(figures: Figures) -> dict[str, float]:
    """`total_loss` becomes `train/total_loss`; `lr` stays."""
    return {
        name if name == "lr" else f"{SECTIONS.get(name, 'train')}/{name}": value
        for name, value in figures.items()
        if name != "iteration"
    }


def of_evaluation(figures: Figures) -> dict[str, float]:
    """`PQ` becomes `eval/PQ`, the moving average's `ema/PQ` becomes `eval/ema/PQ`."""
    return {f"eval/{name}": value for name, value in figures.items() if name != "iteration"}


def step_number(iteration: int, *, evaluation: bool) -> int:
    """W&B's own step, which may only grow: a pair of them for each iteration.

    The same line always has the same one, so that a run that goes on knows what W&B has already.
    """
    return 2 * (iteration + 1) + evaluation


NAME = "wandb-core"
SECONDS = 5.0  # to notice that it is gone


def end_service() -> None:
    """Kill it: what it wrote so far stays, and whoever waits for it waits no longer.

    Only children of this process, on Linux; elsewhere it is left alone. wandb is left ready to
    start another one, for the next run of a sweep.
    """
    for number in _children():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{number}/comm").read_text().strip() == NAME:
                os.kill(number, signal.SIGKILL)
    with contextlib.suppress(Exception):  # it finds its process gone
        import wandb

        Patience("wandb-end")(wandb.teardown, SECONDS, "ending")


def _children() -> list[int]:
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found


logger = logging.getLogger(__name__)

LOG_CHECKPOINTS = ("none", "best", "all")
LINE, MEDIA, ARTIFACT = 30.0, 120.0, 600.0  # seconds to wait for one
UNFINISHED = 10.0  # seconds to wait for uploads of a run that was stopped or failed
STAGING = "WANDB_DATA_DIR"  # where copies of artifacts wait to be sent, below the home by default


class WandbLogger(Logger):
    """Tells W&B what metrics.json is told, with the config, pictures, tables and checkpoints.

    W&B's lines are numbered by `step_number`. What it has of them when a run goes on is read back,
    what it lacks comes from metrics.json, and what is trained again is not sent again.
    """

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
            project, entity, name, group, tags: as W&B has them; group None: the run's sweep.
            mode: online | offline | disabled; None: see `choose_mode`.
            pictures: send images and charts of evaluations.
            log_checkpoints: none | best | all.
            init_timeout: seconds until a server that does not answer is given up.
            finish_timeout: seconds that uploads may take at the end.
        """
        if log_checkpoints not in LOG_CHECKPOINTS:
            raise ValueError(
                f"logger.wandb.log_checkpoints={log_checkpoints} is unknown; choose one of "
                + ", ".join(LOG_CHECKPOINTS)
            )
        if mode is not None and mode not in MODES:
            raise ValueError(
                f"logger.wandb.mode={mode} is unknown; choose one of {', '.join(MODES)}"
            )
        for key, seconds in (("init", init_timeout), ("finish", finish_timeout)):
            if seconds <= 0:
                raise ValueError(f"logger.wandb.{key}_timeout={seconds} must be above 0")
        self._project, self._name, self._entity = project, name, entity
        self._mode, self._group, self._tags = mode, group, list(tags)
        self._pictures, self._log_checkpoints = pictures, log_checkpoints
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        self._run: Any = None
        self._staging: str | None = None  # the folder, where it is ours
        self._last = -1  # W&B's last step
        self._kind = "train"
        self._mend: Callable[[], None] = lambda: None
        self._later = "wandb sync"  # the command that sends what was not sent
        self._best: dict[str, tuple[float, int]] = {}  # figure, iteration

    def start(self, run: Run) -> None:
        self._patience = Patience("wandb")
        # Twice: where the server does not answer, the run is begun again, offline.
        self._do(lambda: self._begin(run), 2 * self._init_timeout + 60, "starting")

    def step(self, iteration: int, figures: Figures) -> None:
        number = step_number(iteration, evaluation=False)
        self._do(lambda: self._log(iteration, number, of_step(figures)), LINE, "a line")

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        def tell() -> None:
            if self._run is None:
                return

            number = step_number(iteration, evaluation=True)
            if number > self._last:
                shown = media(details, pictures=self._pictures)
                self._log(iteration, number, of_evaluation(figures) | shown)
            self._summarise(iteration, figures)

        self._do(tell, MEDIA, "an evaluation")

    def measured(self, figures: Figures, pictures: Sequence[Path]) -> None:
        def tell() -> None:
            if self._run is None:
                return

            named = {f"{self._kind}/{name}": value for name, value in figures.items()}
            self._run.summary.update(named)
            self._log(0, 1, {f"pictures/{file.stem}": picture(file) for file in pictures})

        self._do(tell, MEDIA, "figures")

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        if self._log_checkpoints == "none" or (self._log_checkpoints == "best" and not best):
            return

        def tell() -> None:
            if self._run is None:
                return

            aliases = ["latest", f"iteration-{iteration}", *(["best"] if best else [])]
            artifact = checkpoint_artifact(f"model-{self._run.id}", file, iteration)
            self._run.log_artifact(artifact, aliases=aliases)

        self._do(tell, ARTIFACT, "a checkpoint")

    def finish(self, status: str, exit_code: int) -> None:
        def tell() -> None:
            if self._run is None:
                return
            import wandb

            if status == "stopped":
                self._run.mark_preempting()  # it shall go on: not "failed"
            self._run.summary["status"] = status
            self._run.finish(exit_code=exit_code)
            wandb.teardown(exit_code)  # its process ends when all is on the disk

        seconds = self._finish_timeout if status == "finished" else UNFINISHED
        try:
            self._do(tell, seconds + 5, "finishing")
        finally:
            self._run = None
            self._patience.end()
            if self._staging is not None and os.environ.get(STAGING) == self._staging:
                del os.environ[STAGING]

    def _do(self, call: Callable[[], None], seconds: float, what: str) -> None:
        try:
            self._patience(call, seconds, f"W&B: {what}")
        except NotInTime as error:
            self._run = None
            end_service()  # or the end of the program would wait for it
            self._mend()
            raise NotInTime(f"{error}; what was not sent is kept: `{self._later}`") from None

    def _begin(self, run: Run) -> None:
        folder = run.folder / "wandb"
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):  # W&B would go somewhere else
            raise PermissionError(f"{folder} cannot be written")
        self._kind = run.mode
        mode, why_not = choose_mode(self._mode)
        if mode == "disabled":
            return
        identity = run_id(run.folder)
        self._mend = lambda: mend(run.folder, identity)
        self._mend()  # an attempt before this one may have been killed
        self._later = f"wandb sync {os.path.relpath(run.folder)}/wandb/*run-*-{identity}"
        try:
            self._run = self._init(run, identity, mode)
        except Exception as error:
            if mode != "online":
                raise
            mode, why_not = "offline", f"{type(error).__name__}: {error}"
            import wandb

            wandb.teardown()  # its process still holds the run that could not be begun
            self._run = self._init(run, identity, mode)
        if mode == "online":  # earlier attempts' lines are on the server, or are sent again
            self._later = f"wandb sync {os.path.relpath(Path(self._run.dir).parent)}"
        self._say(mode, why_not)
        if mode == "online":
            self._last = self._run.starting_step - 1
        else:
            self._last = last_step(run.folder, identity)
        self._describe(run)
        for line in run.history:
            self._catch_up(line)

    def _init(self, run: Run, identity: str, mode: str) -> Any:
        import wandb

        if STAGING not in os.environ:
            self._staging = os.environ[STAGING] = str((run.folder / "wandb").absolute())
        wanted: dict[str, Any] = {
            "console": "off",  # log.txt has it, and a print must never wait for W&B
            "silent": True,
            "init_timeout": self._init_timeout,
            "finish_timeout": self._finish_timeout,
            "disable_job_creation": True,
            "x_transaction_log_flush_interval": 2.0,  # seconds; by default a kill loses 15
        }
        known = wandb.Settings.model_fields
        return wandb.init(
            project=self._project,
            entity=self._entity,
            name=self._name,
            id=identity,
            resume="allow",
            reinit="create_new",  # of a run that was given up nothing is left behind
            mode=cast(Any, mode),
            dir=str(run.folder),
            group=self._group or run.about.get("sweep"),
            job_type=run.mode,
            tags=_tags(self._tags, _choices(run.about)),
            settings=wandb.Settings(**{k: v for k, v in wanted.items() if k in known}),
        )

    def _say(self, mode: str, why_not: str | None) -> None:
        if mode == "online":
            logger.info("W&B: %s", self._run.url)
            return
        if why_not is None:
            logger.info("W&B: offline; send it with `%s`", self._later)
        else:
            logger.warning(
                "W&B: %s. The run is kept offline; send it later with `wandb login` and `%s`",
                why_not,
                self._later,
            )

    def _describe(self, run: Run) -> None:
        """Config, axes and the network's parts."""

        about = {key: value for key, value in run.about.items() if key in ABOUT}
        config: dict[str, Any] = {**run.config, "run": about}
        if run.modules:
            _, _, parameters, trained = run.modules[0]
            config["network"] = {"parameters": parameters, "trained": trained}
        self._run.config.update(config, allow_val_change=True)
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        if run.modules and self._last < 0:
            self._log(0, 0, {"network/modules": modules_table(run.modules)})

    def _catch_up(self, line: Figures) -> None:
        """Send a line of metrics.json, unless W&B has it."""
        iteration = int(line["iteration"])
        evaluation = is_evaluation(line)
        named = of_evaluation(line) if evaluation else of_step(line)
        self._log(iteration, step_number(iteration, evaluation=evaluation), named)
        if evaluation:
            self._summarise(iteration, line)

    def _log(self, iteration: int, number: int, figures: Mapping[str, Any]) -> None:
        if self._run is not None and number > self._last:
            self._run.log({"iteration": iteration, **figures}, step=number, commit=True)
            self._last = number

    def _summarise(self, iteration: int, figures: Figures) -> None:
        if self._run is None:
            return
        for name in PUBLISHED:
            value = figures.get(name)
            if value is None or value != value:  # not a number: undefined
                continue
            if name not in self._best or is_better(name, value, self._best[name][0]):
                self._best[name] = (value, iteration)
            best, at = self._best[name]
            self._run.summary.update(
                {f"{name}/last": value, f"{name}/best": best, f"{name}/best_iteration": at}
            )


ABOUT = ("row", "command", "git", "environment", "config_hash", "seed", "published")  # of run.json


def _tags(more: Sequence[str], choices: Mapping[str, str]) -> list[str]:
    """W&B takes no tag of more than 64 letters."""
    found = [f"{group}={option}" for group, option in choices.items()]
    return list(dict.fromkeys(tag[:64] for tag in (*found, *more) if tag))


VOID_MASK_VALUE = 255  # masks are bytes
MOST_CELLS = 10_000  # of a confusion matrix: W&B draws no more rows of a table


def media(details: Details, *, pictures: bool) -> dict[str, Any]:
    """What is logged of an evaluation beside its figures, by W&B's names.

    Args:
        pictures: images and charts, too, not only tables.
    """
    found: dict[str, Any] = {}
    for table in class_tables(details.results):
        as_wandb = _table(table)
        found[f"classes/{_name(table.title)}"] = as_wandb
        charted = [name for _, name, _ in CLASS_CHARTS if name in table.columns]
        for measure in charted if pictures else ():
            title = f"{measure} by {table.title.rpartition(' ')[2]}"
            bars = wandb.plot.bar(_table(table), "name", measure, title=title)
            found[f"charts/{_name(title)}"] = bars
    if not pictures:
        return found
    if details.samples:
        found["images/validation"] = [image(s, details.class_names) for s in details.samples]
    if details.confusions is not None:
        found["charts/confusions"] = confusion_chart(details.confusions)
    for file in details.pictures:
        found[f"pictures/{file.stem}"] = picture(file)
    return found


def picture(file: Path) -> Any:
    """A `wandb.Image` of a file."""
    return wandb.Image(str(file), caption=file.name)


def image(sample: Sample, names: Sequence[str]) -> Any:
    """A `wandb.Image` with the masks `ground_truth` and `prediction`.

    Masks are bytes: with more than 255 classes there are none.
    """
    masks = None
    if len(names) <= VOID_MASK_VALUE:
        labels = dict(enumerate(names)) | {VOID_MASK_VALUE: "void"}
        masks = {
            kind: {"mask_data": _bytes(classes), "class_labels": labels}
            for kind, classes in (
                ("ground_truth", sample.ground_truth),
                ("prediction", sample.prediction),
            )
        }
    return wandb.Image(sample.image, caption=sample.name, masks=masks, file_type="jpg")


def confusion_chart(confusions: Confusions) -> Any:
    """W&B's chart of a confusion matrix, in pixels; of large ones the largest cells."""
    columns = [*confusions.names, "none"]
    counts = confusions.counts
    cells = [(int(n), row, column) for (row, column), n in np.ndenumerate(counts)]
    if len(cells) > MOST_CELLS:
        cells = sorted(sorted(cells, reverse=True)[:MOST_CELLS], key=lambda cell: cell[1:])
    rows = [[confusions.names[row], columns[column], n] for n, row, column in cells]
    names: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=names, data=rows),
        fields={str(name): str(name) for name in names},
        string_fields={"title": "Confusions, in pixels"},
    )


def modules_table(modules: Sequence[tuple[str, str, int, int]]) -> Any:
    """The network's parts and their parameters."""
    columns: list[str | int] = ["module", "class", "parameters", "trained"]
    return wandb.Table(columns=columns, data=[list(row) for row in modules])


def checkpoint_artifact(name: str, file: Path, iteration: int) -> Any:
    """A checkpoint as an artifact; the file is copied at once, for the run may remove it."""
    artifact = wandb.Artifact(name, type="model", metadata={"iteration": iteration})
    artifact.add_file(str(file), name="model.pth")
    return artifact


def _table(table: Table) -> Any:
    data = [
        [name, *(value if math.isfinite(value) else None for value in values)]
        for name, values in table.rows
    ]
    return wandb.Table(columns=["name", *table.columns], data=data)


def _name(title: str) -> str:
    return title.replace(" ", "_")


def _bytes(classes: np.ndarray) -> np.ndarray:
    return np.where(classes < 0, VOID_MASK_VALUE, classes).astype(np.uint8)


def _choices(about: Mapping[str, Any]) -> dict[str, str]:
    """The options, as run.json has them, of the groups that distinguish runs."""
    groups = ("dataset", "task", "backbone", "head", "recipe", "experiment", "hardware", "sweep")
    choices = about.get("choices") or {}
    return {group: str(choices[group]) for group in groups if choices.get(group)}
