"""Values of the wrong kind are refused by the name of their key."""

import pytest

from panoptic_dl.config import ConfigError, compose
from panoptic_dl.config.composition import suggest


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size=abc", "a whole number, such as the default 32"),
        ("train.batch_size=2.5", "a whole number"),
        ("train.batch_size=true", "a whole number"),
        ("train.eval_at_end=1", "true or false"),
        ("optimizer.lr=fast", "a number, such as the default 0.001"),
        ("optimizer.lr=[1]", "a single value"),
        ("dataset.crop_size=512", "a list"),
        ("dataset.crop_size=[512]", r"\[height, width\]"),
        ("dataset.min_sizes=[a,b]", "a list with a whole number in it"),
        ("decoder.panoptic=3", "a group of keys"),
        ("seed=abc", "a whole number"),
    ],
)
def test_wrong_kinds(override, expected):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}=.*expected {expected}"):
        compose([override])


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1",
        "seed=null",
        "weights=a.pth",
        "resume=auto",
        "resume=true",
        "name=12",
        "dataset.min_sizes=[512]",
        "dataset.crop_size=[64,96]",
        "pixels.mean=[1,2,3]",
        "launch.num_gpus=2",
        "+train.added=[1,a]",
        "backbone.norm=null",
    ],
)
def test_right_kinds(override):
    compose([override])


def test_defaults_are_those_of_the_options_chosen():
    with pytest.raises(ConfigError, match="default 64"):
        compose(["dataset=coco", "train.batch_size=abc"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "optimzer.lr=1,2"],
        ["optimzer.lr=1", "--cfg", "job"],
        ["--multirun", "backbone=xception65,hrnet48", "optimzer.lr=1"],
    ],
)
def test_near_names_also_in_sweeps_and_beside_flags(arguments, capsys):
    suggest(arguments)
    assert "Did you mean: optimizer.lr" in capsys.readouterr().err
