"""The command completes options of groups without Hydra, as Hydra does."""

import pytest

from panoptic_dl.__main__ import options_of
from panoptic_dl.config import options

GROUPS = ("backbone", "dataset", "head", "task", "mode", "experiment", "recipe", "train", "launch")


@pytest.mark.parametrize("group", GROUPS)
def test_options_are_those_of_hydra(group):
    wanted = [f"{group}={name}" for name in options(group)]
    assert options_of(f"python run.py seed=1 {group}=") == wanted
    start = wanted[0][:-1]
    assert options_of(f"run.py {start}") == [name for name in wanted if name.startswith(start)]


@pytest.mark.parametrize(
    "line",
    ["run.py back", "run.py --config-dir x backbone=", "run.py hydra/launcher=", "run.py x="],
)
def test_other_lines_are_left_to_hydra(line):
    assert options_of(line) == []
