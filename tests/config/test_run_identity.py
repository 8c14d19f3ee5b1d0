"""What a run says it is: the same hash wherever it runs, another where its metrics may differ."""

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from panoptic_dl.config import compose
from panoptic_dl.config.run_identity import (
    _config_hash,
    command,
    differing_keys,
    identity,
    relevant_config,
)

pytestmark = pytest.mark.thorough

TINY = ["backbone=hrnet_tiny", "dataset=toy_cityscapes"]


def hashed(*overrides):
    return _config_hash(compose([*TINY, *overrides]), "train")


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
def test_what_changes_metrics_changes_the_hash(override):
    assert hashed(override) not in (hashed(), None)
    different = differing_keys(
        *(
            relevant_config(OmegaConf.to_container(compose([*TINY, *more])))
            for more in ([], [override])
        )
    )
    key = override.partition("=")[0]
    assert different
    assert any(name.startswith((key, f"{key}.")) for name in different) or key in ("head", "task")


def test_modes_differ():
    assert _config_hash(compose(TINY), "eval") != hashed()


def test_seeds_of_one_row_have_a_hash_in_common():
    def any_seed(*overrides):
        return _config_hash(compose([*TINY, *overrides]), "train", any_seed=True)

    assert any_seed("seed=0") == any_seed("seed=1") != any_seed("optimizer.lr=0.5")


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


def test_when_a_part_is_made_is_no_difference():
    one, other = ({"a": {"_target_": "b", **more}} for more in ({}, {"_partial_": True}))
    assert differing_keys(one, other) == []
