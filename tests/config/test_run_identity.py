"""What a run says it is: the same hash wherever it runs, another where its metrics may differ."""

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from panoptic_dl.config import compose
from panoptic_dl.config.run_identity import (
    _config_hash,
    changes_on_resume,
    command,
    differences,
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
        "epochs": None,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup_iters": 50,
        "choices": {
            "optimizer": "adam",
            "schedule": "poly",
            "loss": "published",
            "augmentation": "published",
        },
    }
    assert facts["train"] == {"iterations": 500, "batch_size": 8, "precision": "tf32"}
    assert facts["config_hash"] == hashed("seed=3")
    assert "${" not in OmegaConf.to_yaml(config, resolve=True)


def resumed(folder, *overrides):
    return changes_on_resume(compose([*TINY, "resume=auto", *overrides]), folder)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run with a checkpoint and numbers of its own."""
    folder = tmp_path_factory.mktemp("begun")
    config = compose([*TINY, "train.batch_size=4", "dataset.root.root=/a", "weights=x.pth"])
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "resolved.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (folder / "model_0000001.pth").touch()
    return folder


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("dataset.root.seed=1", "dataset.root.seed"),
        ("train.clip_norm=0.1", "train.clip_norm"),
        ("train.batch_size=8", "train.batch_size"),
    ],
)
def test_other_numbers_are_refused_on_resume_and_shown(begun, override, key):
    words = [override] if "batch_size" in override else [override, "train.batch_size=4"]
    with pytest.raises(ValueError, match=rf"(?s)other numbers: {key} differ\..*\| {key} ") as error:
        resumed(begun, *words)
    assert "resume_changed=true" in str(error.value).partition("\n")[0]
    (said,) = resumed(begun, *words, "resume_changed=true")
    assert f"| {key} " in said
    assert resumed(begun, *words, "resume=false") == []


def test_what_was_set_by_itself_and_is_no_longer_is_a_difference(begun):
    """`train.batch_size` is the recipe's by default."""
    assert differences(compose([*TINY]), begun) == {
        "train.batch_size": (4, 8),
        "weights": ("x.pth", None),
    }


def test_a_longer_training_on_other_hardware_goes_on(begun):
    same = ["train.batch_size=4", "weights=x.pth"]
    assert resumed(begun, *same, "dataset.root.root=/b", "train.num_workers=7") == []
    (said,) = resumed(begun, *same, "train.iterations=900", "train.images_per_gpu=2")
    assert [line.split()[1] for line in said.splitlines()[3:]] == [
        "train.images_per_gpu",
        "train.iterations",
    ]


@pytest.mark.parametrize("text", [None, "", "a: [", "dataset:\n"])
def test_a_damaged_config_is_said_and_not_compared(tmp_path, text):
    (tmp_path / "model_final.pth").touch()
    (tmp_path / ".hydra").mkdir()
    if text is not None:
        (tmp_path / ".hydra" / "resolved.yaml").write_text(text)
    (said,) = resumed(tmp_path)
    assert "resolved.yaml" in said
    with pytest.raises(ValueError, match=r"resolved\.yaml does not tell"):
        differences(compose(TINY), tmp_path)


def test_when_a_part_is_made_is_no_difference():
    one, other = ({"a": {"_target_": "b", **more}} for more in ({}, {"_partial_": True}))
    assert differing_keys(one, other) == []


def test_a_run_from_before_evaluations_had_a_precision_goes_on(begun, tmp_path):
    config = OmegaConf.load(begun / ".hydra" / "resolved.yaml")
    del config.evaluation.precision
    config.train.precision = "fp32"  # the default of that time
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(config, tmp_path / ".hydra" / "resolved.yaml")
    (tmp_path / "model_0000001.pth").touch()
    words = ["train.batch_size=4", "dataset.root.root=/a", "weights=x.pth"]
    assert resumed(tmp_path, *words, "train.precision=fp32") == []
    with pytest.raises(ValueError, match=r"other numbers: train\.precision differ\."):
        resumed(tmp_path, *words)
