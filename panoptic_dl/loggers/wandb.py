"""Weights & Biases: one run there for each run folder, also when that is stopped and goes on."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .interface import Details, Figures, Logger, Run, is_evaluation
from .patience import NotInTime, Patience
from .run_facts import chosen
from .wandb_account import MODES, choose_mode
from .wandb_files import last_step, mend, run_id
from .wandb_names import MAIN, of_evaluation, of_step, step_number
from .wandb_service import end_service

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
            from .wandb_media import media

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
            from .wandb_media import picture

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
            from .wandb_media import checkpoint_artifact

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
            tags=_tags(self._tags, chosen(run.about)),
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
        from .wandb_media import modules_table

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
        for name in MAIN:
            value = figures.get(name)
            if value is None or value != value:  # not a number: undefined
                continue
            if name not in self._best or value > self._best[name][0]:
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
