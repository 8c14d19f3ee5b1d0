"""What a run says it is: the same hash wherever it runs, another where its figures may differ."""

from pathlib import Path

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

from panoptic_dl.config import compose
from panoptic_dl.config.composition import CONF
from panoptic_dl.config.run_identity import (
    agree_on_folder,
    check_requeue,
    command,
    config_hash,
    differing_keys,
    figures_config,
    has_same_folder,
    identity,
)
from panoptic_dl.sweeps.callbacks import CheckOutputFolder

TINY = ["backbone=hrnet_tiny", "dataset=toy_cityscapes"]


def hashed(*overrides):
    return config_hash(compose([*TINY, *overrides]), "train")


SAME = [
    "run_dir=elsewhere",
    "resume=auto",
    "launch.num_cpu_processes=2",
    "train.num_workers=7",
    "train.log_period=3",
    "checkpoint.period=7",
    "evaluation.per_class=true",
    "evaluation.picture_count=0",
    "dataset.root.root=/elsewhere",
    "dataset.cache.folder=/elsewhere",
    "name=mine",
    "published={PQ: 50.0}",
]
OTHER = [
    "seed=1",
    "train.iterations=7",
    "optimizer.lr=0.5",
    "head=dsconv",
    "task=semantic",
    "backbone.norm=BN",
    "dataset.crop_size=[64,64]",
    "dataset.root.seed=4",
    "evaluation.flip=true",
    "train.precision=bf16",
    "train.images_per_gpu=1",  # what batch normalisation sees at once
    "weights=model.pth",
]


@pytest.mark.parametrize("override", SAME)
def test_where_and_how_a_run_works_is_not_hashed(override):
    assert hashed(override) == hashed() is not None


@pytest.mark.parametrize("override", OTHER)
def test_what_changes_figures_changes_the_hash(override):
    assert hashed(override) not in (hashed(), None)
    different = differing_keys(
        *(
            figures_config(OmegaConf.to_container(compose([*TINY, *more])))
            for more in ([], [override])
        )
    )
    key = override.partition("=")[0]
    assert different
    assert any(name.startswith((key, f"{key}.")) for name in different) or key in ("head", "task")


def test_modes_differ():
    assert config_hash(compose(TINY), "eval") != hashed()


def test_seeds_of_one_row_have_a_hash_in_common():
    first, second = (compose([*TINY, f"seed={seed}"]) for seed in (0, 1))
    assert config_hash(first, "train", any_seed=True) == config_hash(second, "train", any_seed=True)
    other = compose([*TINY, "optimizer.lr=0.5"])
    assert config_hash(first, "train", any_seed=True) != config_hash(other, "train", any_seed=True)


def test_the_command_repeats_the_row_anywhere():
    words = ["experiment=a", "sweep.seeds=[0,1]", "resume=auto", "run_dir=/x/y"]
    words += ["sweep_dir=/s", "weights=/data/net.pth", "dataset.root.root=/d", "name=my row"]
    assert command(words) == "python run.py experiment=a weights=net.pth 'name=my row'"
    assert command(["sweep=toy", *words[:2]]) == "python run.py -m sweep=toy experiment=a"


def test_the_command_of_a_trial_does_not_search():
    words = ["experiment=a", "sweep=toy_search", "optimizer.lr=0.1"]
    assert command(words, search=True) == "python run.py experiment=a optimizer.lr=0.1"
    config = compose([*TINY])
    hydra = OmegaConf.create(
        {
            "mode": "MULTIRUN",
            "overrides": {"task": words},
            "runtime": {"choices": {"mode": "train"}},
            "sweep": {"dir": "outputs/sweeps/x"},
            "sweeper": {"_target_": "hydra_plugins.panoptic_dl.OptunaSweeper"},
        }
    )
    hydra.mode = RunMode.MULTIRUN
    assert identity(config, hydra)["command"] == command(words, search=True)


def test_the_facts_of_a_run():
    overrides = [*TINY, "seed=3"]
    hydra = OmegaConf.create(
        {
            "mode": "RUN",
            "overrides": {"task": overrides},
            "runtime": {
                "choices": {"mode": "train", "hydra/launcher": "basic", "experiment": None}
            },
            "sweep": {"dir": "outputs/sweeps/x"},
        }
    )
    config = compose(overrides)
    facts = identity(config, hydra)
    assert facts["row"] == facts["name"] == "toy_cityscapes_panoptic_hrnet_tiny_conv"
    assert facts["choices"] == {"mode": "train"}
    assert facts["seed"] == 3
    assert facts["sweep"] is None
    assert facts["recipe"] == {
        "iterations": 500,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup_iters": 50,
    }
    assert facts["train"] == {"iterations": 500, "batch_size": 8, "precision": "fp32"}
    assert facts["config_hash"] == hashed("seed=3")
    assert "${" not in OmegaConf.to_yaml(config, resolve=True)


@pytest.mark.parametrize(
    ("resume", "same_folder", "message"),
    [(False, True, "resume=auto"), (True, True, "resume=auto"), ("auto", False, "run_dir=FOLDER")],
)
def test_a_command_that_would_not_go_on_is_refused(resume, same_folder, message):
    with pytest.raises(ValueError, match=message):
        check_requeue(True, resume, same_folder)
    check_requeue(False, resume, same_folder)
    check_requeue(True, "auto", True)


def test_processes_that_would_make_a_folder_each_need_a_name(monkeypatch):
    config = compose_with_hydra("launch.num_machines=2")
    with pytest.raises(ValueError, match="give all of them the same run_dir=/shared/folder"):
        agree_on_folder(config)
    assert agree_on_folder(compose_with_hydra("launch.num_machines=2", "run_dir=x")) == Path("x")
    for name, value in (("LOCAL_RANK", 0), ("WORLD_SIZE", 2), ("TORCHELASTIC_MAX_RESTARTS", 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match=r"run_dir=/shared/folder, and add resume=auto"):
        agree_on_folder(compose_with_hydra())
    with pytest.raises(SystemExit, match="start one run, not a sweep"):
        CheckOutputFolder().on_multirun_start(compose_with_hydra())


def test_a_requeued_command_finds_a_folder_without_the_time_in_it():
    def is_same(*overrides, mode=RunMode.RUN):
        config = compose_with_hydra(*overrides)
        config.hydra.mode = mode
        return has_same_folder(config.hydra, config)

    assert not is_same()
    assert not is_same("run_dir=x/${now:%H}")
    assert is_same("run_dir=x")
    assert not is_same("run_dir=x", mode=RunMode.MULTIRUN)
    assert is_same("hydra.sweep.dir=x", mode=RunMode.MULTIRUN)
    assert is_same("hydra/launcher=submitit_local", mode=RunMode.MULTIRUN)


def compose_with_hydra(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(config.hydra, False)
    return config
