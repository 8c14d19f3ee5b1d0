"""Compose a config, start its processes, hand over to the mode's function. See --help."""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config.composition import register

register()


def work(device: str, config: DictConfig, allowed: tuple[str, ...]) -> dict:
    """What each process of the run does."""
    from panoptic_dl.config import allow, build
    from panoptic_dl.core.run_folder import note_figures, note_machine
    from panoptic_dl.launch.session import begin, user_errors
    from panoptic_dl.launch.signals import interruptible, requeue_when_stopped

    allow(*allowed)  # packages that lazy files allowed in the process that composed
    requeue = requeue_when_stopped(config.launch.requeue)
    with interruptible(), user_errors(config.run_dir), requeue:
        begin(config.run_dir, config.seed, device)
        note_machine(config.run_dir, device)
        results = build(config.mode, device=device)
        note_figures(config.run_dir, results)
        return results


def start(config: DictConfig, allowed: tuple[str, ...]) -> dict | None:
    """Start the run's processes; a mode that looks into what is wrong gets to look into that, too.

    Such modes have the key `launch_refused`.
    """
    from panoptic_dl.launch.launcher import launch

    try:
        return launch(work, config, allowed, **config.launch)
    except ValueError as error:
        if "launch_refused" not in config.mode:
            raise
        config.mode.launch_refused = str(error)
        return launch(work, config, allowed, num_gpus=None)


def run(config: DictConfig, hydra_config: Any, facts: dict[str, Any]) -> float | None:
    """One run, alone or a row of a sweep; return its first figure, for sweepers that optimise.

    `facts`: see `panoptic_dl.config.run_identity`.
    """
    from panoptic_dl.config.builder import allowed
    from panoptic_dl.config.output_folder import is_main_process, is_same_when_requeued
    from panoptic_dl.config.run_identity import plain_yaml
    from panoptic_dl.config.saved import with_run_of_weights
    from panoptic_dl.core.run_folder import recorded
    from panoptic_dl.launch.gpus import take_gpus
    from panoptic_dl.launch.session import user_errors
    from panoptic_dl.launch.signals import check_requeue

    mode = facts["mode"]
    # Before the time in its name is fixed:
    same_folder = is_same_when_requeued(hydra_config, config)
    config.run_dir = hydra_config.runtime.output_dir
    trial = mode == "train" and config.train.fast_dev_run is True  # leaves no record of its own
    with (
        recorded(config.run_dir, writes=is_main_process(config) and not trial) as state,
        user_errors(config.run_dir),
    ):
        state.begin(facts)
        check_requeue(config.launch.requeue, config.resume, same_folder)
        if mode == "demo":
            config = with_run_of_weights(config, hydra_config.overrides.task)
        state.resolved(plain_yaml(config))
        OmegaConf.resolve(config)  # the time in names is fixed here, for all processes
        take_gpus(config.launch.num_gpus)
        results = start(config, allowed())
    return next(iter(results["metrics"].values())) if results else None


def run_row(config: DictConfig, hydra_config: Any, facts: dict[str, Any]) -> float | None:
    """One row of a sweep: left alone if it is done, gone on with if it has begun."""
    from panoptic_dl.config.run_identity import differences
    from panoptic_dl.launch.session import user_errors
    from panoptic_dl.sweeps.table import failing_alone, standing

    folder = Path(hydra_config.runtime.output_dir)
    with failing_alone(folder):
        with user_errors(str(folder)):
            found = standing(folder, facts, config.resume, lambda: differences(config, folder))
        if found.finished:
            print(f"{folder.name}: finished already, left as it is")
            return found.figure
        config.resume = found.resume
        return run(config, hydra_config, facts)
    return None


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run one job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from panoptic_dl.config.run_identity import identity

    hydra_config = HydraConfig.get()
    do = run_row if hydra_config.mode == RunMode.MULTIRUN else run
    return do(config, hydra_config, identity(config, hydra_config))


if __name__ == "__main__":
    main()
