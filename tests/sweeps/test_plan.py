"""Rows and the names of their folders, as Hydra itself would make the jobs."""

import pytest
from hydra import compose as hydra_compose
from hydra.core.plugins import Plugins
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict, read_write

from panoptic_dl.config.composition import _hydra_of_our_own
from panoptic_dl.config.lazy import register
from panoptic_dl.sweeps.table import LONGEST, SweepError, narrow, plan, row_folder, with_seeds


def config_of(*overrides):
    register()  # as run.py does, so that this file also passes by itself
    with _hydra_of_our_own():
        config = hydra_compose("config", list(overrides), return_hydra_config=True)
    assert Plugins.instance()
    with read_write(config), open_dict(config):
        config.hydra.overrides.task = list(overrides)
    return config


def rows_of(*overrides, swept=()):
    config = config_of(*overrides)
    with read_write(config), open_dict(config):
        config.hydra.overrides.task = [*overrides, *swept]
        narrow(config)
        with_seeds(config)
        return plan(config)


TABLES = {
    "cityscapes_panoptic_conv": ["cityscapes_panoptic_{}_conv"],
    "cityscapes_panoptic_dsconv": ["cityscapes_panoptic_{}_dsconv"],
    "coco_panoptic_dsconv": ["coco_panoptic_{}_dsconv"],
    "cityscapes_semantic": ["cityscapes_semantic_{}_conv"],
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_its_two_rows(table):
    names = [TABLES[table][0].format(backbone) for backbone in ("xception65", "hrnet48")]
    found = rows_of(f"sweep={table}")
    assert list(found.rows) == names
    assert [f"experiment={name}" for name in names] == [r[0] for r in found.rows.values()]
    assert config_of(f"sweep={table}").sweep_dir == f"outputs/sweeps/{table}"


def test_names_do_not_depend_on_order_or_number():
    grid = ["backbone=xception65,hrnet48", "head=conv,dsconv"]
    found = rows_of(swept=grid)
    assert sorted(found.rows) == sorted(rows_of(swept=[*reversed(grid)]).rows)
    assert set(found.rows) < set(
        rows_of(swept=[grid[0], "head=conv,dsconv", "task=panoptic,semantic"]).rows
    )
    assert len(found.rows) == 4


def test_a_name_says_what_is_swept_and_no_more():
    found = rows_of("train.iterations=5", swept=["optimizer.lr=0.1,0.2"])
    assert [name.partition("-")[2] for name in found.rows] == [
        "optimizer.lr=0.1",
        "optimizer.lr=0.2",
    ]
    assert found.unsaid == ["optimizer.lr"]


def test_groups_that_the_name_lacks_are_said():
    found = rows_of("experiment=toy_quickstart", swept=["backbone=hrnet_tiny,hrnet18"])
    assert list(found.rows) == [
        "toy_quickstart-backbone=hrnet_tiny",
        "toy_quickstart-backbone=hrnet18",
    ]


def test_the_command_line_narrows_a_table():
    assert list(rows_of("sweep=toy", "backbone=hrnet_tiny", "head=conv").rows) == [
        "toy_cityscapes_panoptic_hrnet_tiny_conv",
        "toy_cityscapes_semantic_hrnet_tiny_conv",
    ]


def test_seeds_repeat_every_row():
    found = rows_of("sweep=cityscapes_semantic", "sweep.seeds=[0,7]")
    assert [name.rpartition("-")[2] for name in found.rows] == ["seed=0", "seed=7"] * 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.seeds=[0,0]"], "each once"),
        (["sweep.seeds=[]"], "whole numbers"),
        (["sweep.seeds=[a]"], "whole numbers"),
        (["sweep.seeds=3"], "whole numbers"),
        (["sweep.seeds=[0,1]", "seed=4"], "give one of them"),
        (["sweep.seeds=[0,1]", "++seed=4"], "give one of them"),
    ],
)
def test_seeds_that_cannot_be(overrides, message):
    with pytest.raises(SweepError, match=message):
        rows_of(*overrides)


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        ("sweep=cityscapes_panoptic_conv,cityscapes_panoptic_dsconv", "one table at a time"),
        ("sweep.seeds=0,1", "write sweep.seeds="),
        ("sweep.seeds=range(3)", "write sweep.seeds="),
    ],
)
def test_rows_do_not_differ_in_what_says_which_rows_there_are(swept, message):
    with pytest.raises(SweepError, match=message):
        rows_of(swept=[swept])


def test_a_pattern_is_the_options_that_fit():
    swept = "experiment=glob(cityscapes_semantic*)"
    config = config_of()
    with read_write(config), open_dict(config), _hydra_of_our_own():
        config.hydra.overrides.task = [swept]
        found = plan(config)
    names = ["cityscapes_semantic_hrnet48_conv", "cityscapes_semantic_xception65_conv"]
    assert list(found.rows) == names


def test_a_swept_mode_is_the_one_of_its_row():
    found = rows_of("weights=a.pth", swept=["mode=eval,benchmark"])
    assert [name.partition("-")[0] for name in found.rows] == ["eval", "benchmark"]


def test_two_rows_of_one_name_are_refused():
    with pytest.raises(SweepError, match="two rows of this sweep are the same"):
        rows_of(swept=["seed=1,1"])


@given(st.text(max_size=400), st.text(max_size=400))
def test_a_folder_is_one_name_that_any_disk_takes(one, other):
    first, second = row_folder("train", "name", one), row_folder("train", "name", other)
    assert 0 < len(first.encode()) <= LONGEST
    assert not set(first) & set("/\\\0 \n*?:")
    assert (first == second) == (one == other)


def test_a_name_leads_nowhere_else():
    assert row_folder("train", "..", "").startswith("..-")


def test_other_modes_have_folders_of_their_own():
    assert row_folder("train", "a", "") == "a"
    assert row_folder("benchmark", "a", "b=1") == "benchmark-a-b=1"
    register()
    assert OmegaConf.create({"x": "${row_folder:eval,a,}"}).x == "eval-a"
