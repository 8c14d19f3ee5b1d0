"""`hydra/sweeper=optuna`: a search for the values with the best figure, trial by trial.

One trial of a search as a job of Hydra's launchers, whatever way it ends.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.core.files import folder_lock, write_text
from panoptic_dl.core.parallel import count_cores
from panoptic_dl.core.run_folder import STOPPED, failure, write_sweep

if TYPE_CHECKING:  # Optuna takes a second to import, and most commands do not need it
    from panoptic_dl.sweeps.study import Study


class Search(Sweeper):
    """Search with Optuna, in `hydra.sweep.dir`; the same command goes on where it was stopped.

    Trials that were killed are run again with their values, in their folders. Trials that fail
    are told to Optuna as failed. See docs/search.md.

    Args:
        n_trials: in all, those of earlier starts included.
        n_jobs: trials that are launched at once; -1: as many as there are CPU cores.
        direction: `maximize` or `minimize` what `run.py` returns, the first figure.
        sampler: `tpe` or `random`.
        startup: trials at random before `tpe` looks at figures.
        seed: of the draws; null: a random one.
        own_values_first: the first trial has the values that the config has without a search,
            where they lie within the space.
        params: overrides of all trials by key, those of the command line going before.
        report: dotted name of what is called with the folder after each batch of trials, and
            returns text to be printed at the end; one that configs may call.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        n_jobs: int,
        direction: str,
        sampler: str,
        startup: int,
        seed: int | None,
        own_values_first: bool,
        params: DictConfig | None = None,
        report: str | None = None,
    ) -> None:
        if find_spec("optuna") is None:
            raise SystemExit(
                "error: hydra/sweeper=optuna needs Optuna: pip install 'panoptic-dl[search]'"
            )
        whole = {"n_trials": n_trials, "n_jobs": n_jobs, "startup": startup}
        for name, value in whole.items():
            if type(value) is not int or (value < 1 and (name, value) != ("n_jobs", -1)):
                raise SystemExit(f"error: hydra.sweeper.{name}={value}: a whole number from 1 on")
        for name, word, options in (
            ("direction", direction, ("maximize", "minimize")),
            ("sampler", sampler, ("tpe", "random")),
        ):
            if word not in options:
                raise SystemExit(f"error: hydra.sweeper.{name}={word}: {' or '.join(options)}")
        if seed is not None and (type(seed) is not int or seed < 0):
            raise SystemExit(f"error: hydra.sweeper.seed={seed}: a whole number from 0 on, or null")
        self.n_trials, self.n_jobs = n_trials, n_jobs if n_jobs > 0 else count_cores()
        self.direction, self.sampler, self.startup, self.seed = direction, sampler, startup, seed
        self.own_values_first, self.report = own_values_first, report
        self.params = {str(key): value for key, value in (params or {}).items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:

        self.hydra_context, self.config = hydra_context, config
        self.composed: DictConfig = config
        self.loader, self.folder = hydra_context.config_loader, Path(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=Job(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run what is missing of `n_trials`; end the program with 130 when stopped, 1 in vain."""
        from panoptic_dl.sweeps.study import LOCK

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.folder, LOCK, "sweep_dir"):
                code = self._search(self._study(arguments))
        except OSError as error:
            reason = error.strerror or error
            raise SystemExit(f"error: {error.filename or self.folder}: {reason}") from None
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        if code:
            raise SystemExit(code)

    def _study(self, arguments: Sequence[str]) -> "Study":
        from panoptic_dl.sweeps.study import Study, search_space

        given = [f"{key}={'null' if v is None else v}" for key, v in self.params.items()]
        try:
            space = search_space([*given, *arguments], self.loader)
            own = self.loader.load_sweep_config(self.composed, list(space.fixed))
            space.check_kinds(own)
            self.validate_batch_is_legal([space.overrides(space.lowest())])
        except HydraException as error:
            raise ValueError(str(error).removeprefix("error: ")) from error
        return Study(
            self.folder,
            space,
            _setting(own),
            maximize=self.direction == "maximize",
            sampler=self.sampler,
            startup=self.startup,
            seed=self.seed,
            first=space.own_values(own) if self.own_values_first else {},
        )

    def _search(self, study: "Study") -> int:
        """Run trials until there are enough; return the program's exit code."""
        again = study.unfinished()
        done = study.begun() - len(again)
        if done or again:
            more = f", {len(again)} to be run again" if again else ""
            print(f"Going on in {study.folder}: {done} of {self.n_trials} trials are done{more}")
        stopped = False
        while not stopped:
            batch, again = again[: self.n_jobs], again[self.n_jobs :]
            while len(batch) < self.n_jobs and study.begun() < self.n_trials:
                batch.append(study.ask())
            if not batch:
                break
            try:
                stopped = self._run(study, batch)
            except KeyboardInterrupt:
                stopped = True
            except SystemExit as end:  # a run's, which has saved its state (see Job)
                stopped = True
                print(f"Trial {batch[0]} was stopped (exit code {end.code})", file=sys.stderr)
            self._save(study)
        record = self._save(study)
        if self.report:
            from panoptic_dl.config.builder import find_target

            print(find_target(self.report)(study.folder) or "", end="", flush=True)
        if stopped:
            print(f"Stopped: the same command with sweep_dir={study.folder} goes on")
            return 130
        return 0 if record["best"] is not None else 1

    def _run(self, study: "Study", batch: list[int]) -> bool:
        """Launch a batch of trials and tell their figures; whether one was stopped from outside."""

        from panoptic_dl.sweeps.study import folder_name

        jobs = self._launch(study, batch)
        stopped = False
        for number, job in zip(batch, jobs, strict=True):
            result = outcome(job, study.folder / folder_name(number))
            if result is None:
                stopped = True
                continue
            study.tell(number, result)
            if isinstance(result, str):
                print(f"Trial {number} failed: {result}", file=sys.stderr)
            else:
                values = study.space.words(study.values(number))
                print(f"Trial {number}: {result:.4g} with {values}")
        return stopped

    def _launch(self, study: "Study", batch: list[int]) -> list[Any]:
        """What the launcher gives back or raises for each trial.

        A job that is killed takes a batch of joblib with it: then each trial is launched alone.
        """
        overrides = [self._overrides(study, number) for number in batch]
        try:
            return list(self.launcher.launch(overrides, initial_job_idx=batch[0]))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            print(f"{type(error).__name__}: {error}\nNow one trial at a time", file=sys.stderr)
            return [job for number in batch for job in self._launch(study, [number])]

    def _overrides(self, study: "Study", number: int) -> list[str]:
        from panoptic_dl.sweeps.study import folder_name

        values = study.values(number)
        return [*study.space.overrides(values), f"hydra.sweep.subdir={folder_name(number)}"]

    def _save(self, study: "Study") -> dict[str, Any]:
        """Write search.json, sweep.json (for the sweep's status) and best.yaml."""
        from panoptic_dl.config.run_identity import command

        record = study.record()
        for trial in record["trials"]:
            trial["overrides"] = study.space.overrides(trial["values"])
            trial["command"] = command(trial["overrides"], search=True)
        rows = {trial["folder"]: trial["overrides"] for trial in record["trials"]}
        write_text(study.folder / "search.json", json.dumps(record, indent=2) + "\n")
        write_sweep(study.folder, rows)
        if record["best"] is not None:
            trial = record["trials"][record["best"]]
            best = {key: trial[key] for key in ("value", "folder", "overrides", "command")}
            write_text(study.folder / "best.yaml", OmegaConf.to_yaml(OmegaConf.create(best)))
        return record


def _setting(config: DictConfig) -> dict[str, Any]:
    """What figures depend on besides the searched values, as JSON has it."""
    from panoptic_dl.config.run_identity import figures_config

    tree: Any = OmegaConf.to_container(config, resolve=False)
    mode = tree.pop("hydra")["runtime"]["choices"].get("mode")
    return json.loads(json.dumps({**figures_config(tree), "mode": mode}))


class EndedEarly(Exception):
    """A job ended by SystemExit, in another process than the search's own."""

    def __init__(self, code: Any) -> None:
        super().__init__(code)
        self.code = code


class Job:
    """The task function of a search: SystemExit, which would end the search, becomes an error.

    One that was caused by Ctrl-C or SIGTERM goes on to end the search, where it can.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task, self.process = task, os.getpid()

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as end:
            if end.code in STOPPED and os.getpid() == self.process:
                raise
            raise EndedEarly(end.code) from None


def outcome(job: JobReturn | Exception, folder: Path) -> float | str | None:
    """A trial's figure, or in one line why it has none, or None if it was stopped from outside.

    Args:
        job: what the launcher gave back, or what it raised.
        folder: of the trial; a row leaves there what was wrong, in failed.txt.
    """
    try:
        if isinstance(job, Exception):
            raise job
        value = job.return_value
    except EndedEarly as end:
        if end.code in STOPPED:
            return None
        return failure(folder) or f"ended with exit code {end.code}"
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return failure(folder) or f"{type(error).__name__}: {first}"
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return failure(folder) or f"gave {value!r} in place of a figure"
    if not math.isfinite(figure):
        return failure(folder) or f"its figure is {figure}"
    return figure
