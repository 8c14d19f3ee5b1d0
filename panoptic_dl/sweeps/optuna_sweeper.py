"""`hydra/sweeper=optuna`: a search for the values with the best metric, trial by trial.

One trial of a search is a job of Hydra's launchers, whatever way it ends.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config.builder import find_target
from panoptic_dl.config.run_identity import relevant_config
from panoptic_dl.core.errors import STOPPING, one_line_errors
from panoptic_dl.core.files import folder_lock
from panoptic_dl.core.parallel import count_cores, handling, interrupt
from panoptic_dl.core.run_folder import STOPPED, ExitCode, failure
from panoptic_dl.core.settings import require_value
from panoptic_dl.sweeps.study import LOCK, SearchSpace, Study, folder_name


class Search(Sweeper):
    """Search with Optuna, in `hydra.sweep.dir`; the same command goes on where it was stopped.

    Trials that were killed are run again with their values, in their folders. Trials that fail
    are reported to Optuna as failed. See docs/how-to/search.md.

    Args:
        n_trials: in all, those of earlier starts included.
        n_jobs: trials that are launched at once; -1: as many as there are CPU cores.
        direction: `maximize` or `minimize` what `run.py` returns, the first metric.
        sampler: `tpe` or `random`.
        startup: trials at random before `tpe` looks at results.
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
        with one_line_errors():
            require_value("hydra.sweeper.n_trials", n_trials, int, least=1)
            require_value("hydra.sweeper.startup", startup, int, least=1)
            require_value("hydra.sweeper.direction", direction, str, ("maximize", "minimize"))
            require_value("hydra.sweeper.sampler", sampler, str, ("tpe", "random"))
            require_value("hydra.sweeper.seed", seed, int | None, least=0)
            if n_jobs != -1:
                require_value("hydra.sweeper.n_jobs", n_jobs, int, least=1)
        self.n_trials, self.n_jobs = n_trials, n_jobs if n_jobs > 0 else count_cores()
        self.draws: dict[str, Any] = {"direction": direction, "sampler": sampler}
        self.draws |= {"startup": startup, "seed": seed}
        self.own_values_first, self.report = own_values_first, report
        self.params = {str(key): value for key, value in (params or {}).items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.composed: DictConfig = config
        self.loader, self.folder = hydra_context.config_loader, Path(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=_Job(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run what is missing of `n_trials`; end the program with 1 where no trial has finished.

        When it is stopped the code is that of the trials that were under way, or 130.
        """
        with one_line_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            with handling(STOPPING, interrupt), folder_lock(self.folder, LOCK, "sweep_dir"):
                try:
                    code = self._search(self._study(arguments))
                except KeyboardInterrupt:  # between trials
                    code = ExitCode.INTERRUPTED
        if code in STOPPED:
            print(f"Stopped: the same command with sweep_dir={self.folder} goes on")
        if code:
            raise SystemExit(code)

    def _study(self, arguments: Sequence[str]) -> Study:
        given = [f"{key}={'null' if v is None else v}" for key, v in self.params.items()]
        space = SearchSpace.parse([*given, *arguments], self.loader)
        own = self.loader.load_sweep_config(self.composed, list(space.fixed))
        first = space.own_values(own)
        self.validate_batch_is_legal([space.example()])
        tree: Any = OmegaConf.to_container(own, resolve=False)
        mode = tree.pop("hydra")["runtime"]["choices"].get("mode")
        first = first if self.own_values_first else {}
        setting = {**relevant_config(tree), "mode": mode}
        return Study(self.folder, space, setting, first=first, **self.draws)

    def _search(self, study: Study) -> int:
        """Run trials until there are enough; return the program's exit code."""
        again = study.unfinished()
        done = study.begun() - len(again)
        if done or again:
            more = f", {len(again)} to be run again" if again else ""
            print(f"Going on in {study.folder}: {done} of {self.n_trials} trials are done{more}")
        stopped = 0  # the exit code then
        while not stopped:
            batch, again = again[: self.n_jobs], again[self.n_jobs :]
            while len(batch) < self.n_jobs and study.begun() < self.n_trials:
                batch.append(study.ask())
            if not batch:
                break
            try:
                stopped = self._run(study, batch)
            except KeyboardInterrupt:
                stopped = ExitCode.INTERRUPTED
            except SystemExit as end:  # a run's, which has saved its state (see _Job)
                stopped = end.code if end.code in STOPPED else ExitCode.INTERRUPTED
                print(f"Trial {batch[0]} was stopped (exit code {end.code})", file=sys.stderr)
            study.save()
        has_finished = study.save()
        if self.report:
            print(find_target(self.report)(study.folder) or "", end="", flush=True)
        return stopped or (0 if has_finished else 1)

    def _run(self, study: Study, batch: list[int]) -> int:
        """Launch a batch of trials, keep their results; the exit code of one that was stopped."""
        stopped = 0
        for number, job in zip(batch, self._launch(study, batch), strict=True):
            result = _result(job, study.folder / folder_name(number))
            if isinstance(result, ExitCode):
                stopped = result
                continue
            study.end(number, result)
            if isinstance(result, str):
                print(f"Trial {number} failed: {result}", file=sys.stderr)
            else:
                values = study.values(number).items()
                shown = (f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values)
                print(f"Trial {number}: {result:.4g} with {' '.join(shown)}")
        return stopped

    def _launch(self, study: Study, batch: list[int]) -> list[Any]:
        """What the launcher returns or raises for each trial."""
        overrides = [
            [*study.space.overrides(study.values(n)), f"hydra.sweep.subdir={folder_name(n)}"]
            for n in batch
        ]
        try:
            return list(self.launcher.launch(overrides, initial_job_idx=batch[0]))
        except Exception as error:
            return [error] * len(batch)


class _EndedEarly(Exception):
    """A job ended by SystemExit, with this exit code, in a process that is not the search's own."""


class _Job:
    """The task of a search: SystemExit, which would end the search, becomes an error.

    One that was caused by Ctrl-C or SIGTERM goes on to end the search, where it can.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task, self.process = task, os.getpid()

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as end:
            is_ours = os.getpid() == self.process or multiprocessing.parent_process() is not None
            if end.code in STOPPED and is_ours:  # not on a cluster, which keeps results only
                raise
            raise _EndedEarly(end.code) from None


def _result(job: JobReturn | Exception, folder: Path) -> float | str | ExitCode:
    """A trial's metric, or in one line why it has none, or how it was stopped from outside."""
    try:
        if isinstance(job, Exception):
            raise job
        value = job.return_value
    except _EndedEarly as end:
        if end.args[0] in STOPPED:
            return ExitCode(end.args[0])
        error = f"ended with exit code {end}"
    except Exception as raised:
        first = (str(raised).strip().splitlines() or [""])[0]
        error = f"{type(raised).__name__}: {first}"
    else:
        try:
            metric = float(value)
        except (TypeError, ValueError):
            error = f"returned {value!r} in place of a metric"
        else:
            if math.isfinite(metric):
                return metric
            error = f"its metric is {metric}"
    return failure(folder) or error
