"""A run: compose a config, start its processes, hand over to the mode's function."""

from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from panoptic_dl.config import allow, build, builder, composition
from panoptic_dl.config.output_folder import check_requeue, config_texts, is_recorded
from panoptic_dl.config.run_identity import changes_on_resume, identity, resolve
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.run_folder import RunState
from panoptic_dl.sweeps.table import isolate_failures, resume_in_sweep

composition.register()  # also in processes of a run, which import this to find `work`


def work(device: str, config: DictConfig, allowed: tuple[str, ...], state: Any = None) -> dict:
    """What each process of the run does; `allowed` is what lazy files allowed when composing."""
    from panoptic_dl.launch.session import call_mode

    allow(*allowed)
    return call_mode(config, device, lambda: build(config.mode, device=device), state)


def run(config: DictConfig, job: Any) -> float | None:
    """One run, alone or in a sweep; return its first metric, for sweepers that optimize."""
    from panoptic_dl.launch.session import session, start

    state = RunState(job.runtime.output_dir, writes=is_recorded(config, job))
    with session(job.runtime.output_dir, state):
        texts, mode = config_texts(config, job), job.runtime.choices.mode
        state.remarks += builder.set_iterations(config, mode, state.folder)
        facts = identity(config, job)
        if (finished := resume_in_sweep(config, job, facts)) is not None:
            return finished.metric
        state.begin(facts, texts)
        check_requeue(config, job)
        if state.writes and mode == "train":
            state.remarks += changes_on_resume(config, state.folder)
        state.write_resolved(resolve(config, state.folder))
        results = start(work, config, tuple(builder.ALLOWED), state)
    return next(iter(results["metrics"].values()), None) if results else None


def job(config: DictConfig) -> float | None:
    """What Hydra calls for a command line, and for each row of a sweep, in any process."""
    with isolate_failures(HydraConfig.get()), one_line_errors():
        return run(config, HydraConfig.get())


def main() -> None:
    """Run what the command line says."""
    hydra.main(version_base="1.3", config_path=str(composition.CONF), config_name="config")(job)()
