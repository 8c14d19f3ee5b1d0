"""Compose a config, start its processes, hand over to the mode's function. See --help."""

from typing import Any

from panoptic_dl.core.errors import begin_program

if __name__ == "__main__":
    begin_program()  # before the imports that take seconds

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config import allow, build, builder, composition
from panoptic_dl.config.output_folder import check_requeue, config_texts, is_recorded
from panoptic_dl.config.run_identity import changes_on_resume, identity, resolve
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.run_folder import RunState
from panoptic_dl.sweeps.table import isolate_failures, resume_in_sweep

composition.register()


def work(
    device: str, config: DictConfig, allowed: tuple[str, ...], state: RunState | None = None
) -> dict:
    """What each process of the run does; `allowed` is what lazy files allowed when composing."""
    from panoptic_dl.launch.session import call_mode

    allow(*allowed)
    return call_mode(config, device, lambda: build(config.mode, device=device), state)


def run(config: DictConfig, job: Any) -> float | None:
    """One run, alone or in a sweep; return its first metric, for sweepers that optimize."""
    from panoptic_dl.launch.session import session, start

    state = RunState(job.runtime.output_dir, writes=is_recorded(config, job))
    with session(job.runtime.output_dir, state):
        texts, facts = config_texts(config, job), identity(config, job)
        finished = resume_in_sweep(config, job, facts)
        if finished is not None:
            return finished.metric
        state.begin(facts, texts)
        check_requeue(config, job)
        if state.writes and facts["mode"] == "train":
            state.remarks += changes_on_resume(config, state.folder)
        config.run_dir = job.runtime.output_dir
        resolve(config)  # the time in names is fixed here, for all processes
        state.write_resolved(OmegaConf.to_yaml(config))
        results = start(work, config, tuple(builder.ALLOWED), state)
    return next(iter(results["metrics"].values())) if results else None


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run one job."""
    with isolate_failures(HydraConfig.get()), one_line_errors():
        return run(config, HydraConfig.get())


if __name__ == "__main__":
    with one_line_errors():
        main()
