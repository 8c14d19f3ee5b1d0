"""Small runs of run.py: their overrides, and how tests start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from panoptic_dl.config import compose, composition
from panoptic_dl.config.builder import set_iterations
from panoptic_dl.launch.session import session
from panoptic_dl.run import job, work
from panoptic_dl.run import run as run_job

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
HEAD = [
    "head.aspp_channels=16",
    "head.panoptic.semantic.decoder_dim=16",
    "head.panoptic.semantic.head_channels=16",
    "head.panoptic.instance.decoder_dim=16",
    "head.semantic.decoder_dim=16",
]
SMALL = [
    "backbone=hrnet_tiny",
    *HEAD,
    "dataset.crop_size=[64,64]",
    "dataset.min_sizes=[64,80]",
    "dataset.size_divisibility=0",
    "dataset.min_size_test=64",
    "dataset.max_size_test=128",
    "train.iterations=2",
    "train.batch_size=2",
    "train.num_workers=0",
    "train.log_period=1",
    # Pictures take most of the time of a small evaluation.
    "evaluation.picture_count=0",
    "evaluation.best_and_worst=0",
    "evaluation.charts=false",
]


def in_process(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """What each process of a run does, in this process, without the cost of starting Python."""
    run_dir.mkdir(parents=True, exist_ok=True)
    config = compose([*overrides, f"run_dir={run_dir}"])
    modes = [word.removeprefix("mode=") for word in overrides if word.startswith("mode=")]
    with session(str(run_dir)):
        set_iterations(config, (modes or ["train"])[0], run_dir)
    return work("cpu", config, ())


def compose_with_hydra(*overrides: str) -> DictConfig:
    """The config of a command line, with its `hydra` node."""
    config = composition.loader().load_configuration(
        "config", list(overrides), RunMode.RUN, from_shell=False
    )
    OmegaConf.set_readonly(config.hydra, False)
    return config


def command_line(*overrides: str) -> float | None:
    """What `python run.py` does with its command line, in this process; names run_dir=."""
    config = compose_with_hydra(*overrides)
    job = config.hydra
    with open_dict(config), open_dict(job):
        del config["hydra"]
        job.runtime.output_dir = config.run_dir
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    return run_job(config, job)


def multirun(
    *overrides: object, task: Callable[[DictConfig], Any] | None = None, conf: Path | None = None
) -> Any:
    """What `python run.py -m` does with its command line, in this process.

    Args:
        task: what each job runs in place of a run.
        conf: the folder of `config.yaml`.
    """
    composition.register()
    words = ["hydra.mode=MULTIRUN", "hydra/hydra_logging=none", *map(str, overrides)]
    with hydra.initialize_config_dir(str(conf or composition.CONF), version_base="1.3"):
        program = GlobalHydra.instance().hydra
        return program.multirun("config", task or job, words, False)


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python run.py` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "run.py", *map(str, arguments)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "env": ENVIRONMENT, **options},
    )


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]
