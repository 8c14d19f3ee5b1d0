"""Hydra's launchers of rows that run beside each other, on this machine and on a SLURM cluster.

A row ends as it would alone: one that is killed fails alone, and signals to the sweep stop all.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from signal import SIGKILL
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from panoptic_dl.core.errors import STOPPING, how_it_ended
from panoptic_dl.core.parallel import (
    ORPHANS_LIVE,
    count_cores,
    end_with,
    handling,
    interrupt,
    passing_signals_on,
)
from panoptic_dl.core.run_folder import STOPPED, ExitCode
from panoptic_dl.launch.gpus import give_out_gpus
from panoptic_dl.sweeps.table import note_failure


class ProcessLauncher(Launcher):
    """`hydra/launcher=local` and `joblib`: every row in a process of its own, `n_jobs` at a time.

    The rows share out the machine's GPUs, see `panoptic_dl.launch.gpus`. With -1 there are as many
    rows at a time as CPU cores; null: all.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        if n_jobs is not None and (type(n_jobs) is not int or n_jobs == 0 or n_jobs < -1):
            raise SystemExit(f"error: hydra.launcher.n_jobs={n_jobs}: a number from 1 on, or -1")
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        give_out_gpus()
        at_once = count_cores() if self.n_jobs == -1 else self.n_jobs or len(job_overrides)
        waiting = list(enumerate(job_overrides))
        running: dict[Connection, tuple[int, Any]] = {}
        results = [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
        codes: set[int] = set()
        with passing_signals_on() as received:
            while running or (waiting and not received and not codes):
                while waiting and len(running) < at_once and not received and not codes:
                    index, overrides = waiting.pop(0)
                    connection, process = self._start(overrides, initial_job_idx + index)
                    running[connection] = index, process
                    if received:  # before the process could be sent it, too
                        process.terminate()
                for connection in [each for each in running if each.poll()]:
                    index, process = running.pop(connection)
                    try:
                        results[index] = cloudpickle.loads(connection.recv_bytes())
                        continue
                    except (EOFError, OSError):  # it ended without a result
                        process.join()
                    if process.exitcode in STOPPED:
                        codes.add(process.exitcode)
                        for _, other in running.values():  # who stops a row means the sweep
                            other.terminate()
                    elif not received:
                        fewer = ", take fewer rows at once" * (process.exitcode == -SIGKILL)
                        line = f"its process {how_it_ended(process.exitcode)}{fewer}"
                        _note(self, job_overrides[index], initial_job_idx + index, line)
                wait(list(running), timeout=1)
        if received or codes:
            raise SystemExit(ExitCode.SAVED if ExitCode.SAVED in codes else ExitCode.INTERRUPTED)
        return results

    def _start(self, overrides: Sequence[str], number: int) -> tuple[Connection, Any]:
        """Start the process of a row; return where its result will come from, and the process."""
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        text = cloudpickle.dumps((self, overrides, number, Singleton.get_state()))
        process = context.Process(target=_run_row, args=(text, theirs, os.getpid()))
        process.start()
        theirs.close()
        return ours, process


def _row_config(launcher: Any, overrides: Sequence[str], number: int) -> DictConfig:
    """The config of a row, with Hydra's node."""
    loader = launcher.hydra_context.config_loader
    config: DictConfig = loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    return config


def _note(launcher: Any, overrides: Sequence[str], number: int, line: str) -> None:
    """Note in a row's folder why it has failed, for it cannot itself."""
    sweep = _row_config(launcher, overrides, number).hydra.sweep
    note_failure(Path(sweep.dir, sweep.subdir), line)


def _run_row(text: bytes, connection: Connection, parent: int) -> None:
    """In a process of its own: run a row and send its `JobReturn`."""
    end_with(parent, ORPHANS_LIVE)
    launcher, overrides, number, singletons = cloudpickle.loads(text)
    Singleton.set_state(singletons)
    setup_globals()
    config = _row_config(launcher, overrides, number)
    HydraConfig.instance().set_config(config)
    result = run_job(
        hydra_context=launcher.hydra_context,
        task_function=launcher.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    connection.send_bytes(cloudpickle.dumps(result))


class SlurmLauncher(Launcher):
    """`hydra/launcher=slurm`: each row a SLURM job, with the settings of `submitit_slurm`."""

    def __init__(self, **settings: Any) -> None:
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher

        self._row = submitit_launcher.SlurmLauncher(**settings)

    def setup(self, **context: Any) -> None:
        self._row.setup(**context)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit.core.utils import FailedJobError, UncompletedJobError

        of_all = {field.name for field in fields(BaseQueueConf)}
        settings = dict(self._row.params)
        executor = submitit.AutoExecutor(
            folder=settings.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=settings.pop("max_num_timeout"),
        )
        executor.update_parameters(
            **{key if key in of_all else f"slurm_{key}": each for key, each in settings.items()}
        )
        number, singletons = len(job_overrides), Singleton.get_state()
        jobs = executor.map_array(
            self._row,
            [list(each) for each in job_overrides],
            ["hydra.sweep.dir"] * number,
            [initial_job_idx + index for index in range(number)],
            [""] * number,
            [singletons] * number,
        )
        results = []
        try:
            with handling(STOPPING, interrupt):
                for index, job in enumerate(jobs):
                    try:
                        results += job.results()
                    except (UncompletedJobError, FailedJobError) as error:  # killed, or cancelled
                        line = f"SLURM job {job.job_id}: {str(error).partition(chr(10))[0]}"
                        _note(self._row, job_overrides[index], initial_job_idx + index, line)
                        results.append(JobReturn(status=JobStatus.COMPLETED))
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel(check=False)
            print(f"{number} SLURM jobs are cancelled: those that train save", file=sys.stderr)
            raise SystemExit(ExitCode.SAVED) from None
        return results
