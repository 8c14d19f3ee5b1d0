"""Rows of a sweep: their folders, as Hydra would name them; which run again, go on or fail."""

import os
import signal

import hydra
import pytest
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from panoptic_dl.config.composition import CONF, register
from panoptic_dl.config.run_identity import LONGEST, row_folder
from panoptic_dl.core.files import RUN_LOCK, file_lock
from panoptic_dl.core.parallel import passing_signals_on
from panoptic_dl.core.run_folder import FAILED, ExitCode
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.sweeps import table
from panoptic_dl.sweeps.status import conclude
from panoptic_dl.sweeps.table import (
    Finished,
    SweepError,
    isolate_failures,
    plan_sweep,
    resume_in_sweep,
)
from tests.runs import compose_with_hydra
from tests.sweeps.rows import write_run

pytestmark = pytest.mark.thorough


def rows_of(*overrides, swept=()):
    config = compose_with_hydra(*overrides)
    with open_dict(config):
        config.hydra.overrides.task = [*overrides, *swept]
        return plan_sweep(config)


TABLES = {
    "cityscapes_panoptic_conv": ("cityscapes_panoptic_{}_conv", "resnet52"),
    "cityscapes_panoptic_dsconv": ("cityscapes_panoptic_{}_dsconv", "resnet52"),
    "coco_panoptic_dsconv": ("coco_panoptic_{}_dsconv", "resnet52"),
    "cityscapes_semantic": ("cityscapes_semantic_{}_conv", "resnet103"),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_its_rows(table):
    pattern, resnet = TABLES[table]
    names = [pattern.format(backbone) for backbone in ("xception65", "hrnet48", resnet)]
    found = rows_of(f"sweep={table}")
    assert list(found) == names
    assert [f"experiment={name}" for name in names] == [r[0] for r in found.values()]
    assert compose_with_hydra(f"sweep={table}").sweep_dir == f"outputs/sweeps/{table}"


def test_the_toy_table_has_eight_rows():
    assert sorted(rows_of("sweep=toy")) == sorted(
        f"toy_cityscapes_{task}_{backbone}_{head}"
        for task in ("panoptic", "semantic")
        for backbone in ("hrnet_tiny", "hrnet18")
        for head in ("conv", "dsconv")
    )


def test_names_do_not_depend_on_order_or_number():
    grid = ["backbone=xception65,hrnet48", "head=conv,dsconv"]
    found = rows_of(swept=grid)
    assert sorted(found) == sorted(rows_of(swept=[*reversed(grid)]))
    assert set(found) < set(rows_of(swept=[grid[0], "head=conv,dsconv", "task=panoptic,semantic"]))
    assert len(found) == 4


def test_a_name_says_what_is_swept_and_no_more():
    found = rows_of("train.iterations=5", swept=["optimizer.lr=0.1,0.2"])
    assert [name.partition("-")[2] for name in found] == [
        "optimizer.lr=0.1",
        "optimizer.lr=0.2",
    ]


def test_groups_that_the_name_lacks_are_said():
    found = rows_of("experiment=toy_quickstart", swept=["backbone=hrnet_tiny,hrnet18"])
    assert list(found) == [
        "toy_quickstart-backbone=hrnet_tiny",
        "toy_quickstart-backbone=hrnet18",
    ]


def test_the_command_line_narrows_a_table():
    assert list(rows_of("sweep=toy", "backbone=hrnet_tiny", "head=conv")) == [
        "toy_cityscapes_panoptic_hrnet_tiny_conv",
        "toy_cityscapes_semantic_hrnet_tiny_conv",
    ]


def test_seeds_repeat_every_row():
    found = rows_of("sweep=cityscapes_semantic", "sweep.seeds=[0,7]")
    assert [name.rpartition("-")[2] for name in found] == ["seed=0", "seed=7"] * 3


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
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = rows_of(swept=[swept])
    backbones = ("hrnet48", "resnet103", "xception65")
    assert list(found) == [f"cityscapes_semantic_{backbone}_conv" for backbone in backbones]


def test_a_swept_mode_is_the_one_of_its_row():
    found = rows_of("weights=a.pth", swept=["mode=eval,benchmark"])
    assert [name.partition("-")[0] for name in found] == ["eval", "benchmark"]


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


def job(folder, mode=RunMode.MULTIRUN):
    """What is used of a job's `hydra` node."""
    return OmegaConf.create({"mode": mode, "runtime": {"output_dir": str(folder)}})


FACTS = {"mode": "train", "config_hash": "a"}


@pytest.fixture
def resume(monkeypatch):
    """What a job of a sweep does next: `Finished`, or the value of `resume`."""
    monkeypatch.setattr(table, "differences", lambda config, folder: ["optimizer.lr", "seed"])

    def call(folder, facts=FACTS, resume=False):
        config = OmegaConf.create({"resume": resume})
        return resume_in_sweep(config, job(folder), facts) or config.resume

    return call


def test_a_row_starts_goes_on_or_is_skipped(tmp_path, resume):
    assert resume(tmp_path / "new") == "auto"
    finished = write_run(tmp_path / "finished", "finished", metrics={"PQ": 5.0, "SQ": 1.0})
    assert resume(finished) == Finished(5.0)
    stopped = write_run(tmp_path / "stopped", "stopped")
    assert resume(stopped) == "auto"
    assert resume(stopped, resume=True) is True
    assert resume(finished, {"mode": "eval", "config_hash": "b"}) is False
    config = OmegaConf.create({"resume": False})
    assert resume_in_sweep(config, job(finished, RunMode.RUN), FACTS) is None
    assert config.resume is False


def test_other_numbers_are_refused_once_something_would_be_lost(tmp_path, resume):
    other = FACTS | {"config_hash": "b"}
    assert resume(write_run(tmp_path / "early", "failed"), other) == "auto"  # nothing there
    begun = write_run(tmp_path / "begun", "failed")
    (begun / "last_checkpoint").write_text("model_0000001.pth")
    for folder in (begun, write_run(tmp_path / "finished", "finished")):
        with pytest.raises(ValueError, match=r"other numbers: optimizer.lr, seed differ\. Choose"):
            resume(folder, other)


def test_an_error_is_noted_and_goes_no_further(tmp_path, capsys):
    with isolate_failures(job(tmp_path / "row")):
        raise SystemExit("Traceback\nerror: CUDA out of memory\nand more")
    assert (tmp_path / "row" / FAILED).read_text() == "CUDA out of memory\n"
    assert "this row of the sweep failed" in capsys.readouterr().err
    with isolate_failures(job(tmp_path / "row")):
        pass
    assert not (tmp_path / "row" / FAILED).exists()
    with isolate_failures(job(tmp_path / "row")):
        raise SystemExit(1)
    assert conclude(tmp_path)[1] is False


def test_a_row_of_another_command_is_left_to_it(tmp_path, resume, capsys):
    folder = write_run(tmp_path / "row", "running")
    with file_lock(folder / RUN_LOCK):
        assert resume(folder) == Finished(None)
        with isolate_failures(job(folder)):  # begun in the same moment
            raise SystemExit(1)
    assert capsys.readouterr().out.count("row: another command trains this row") == 2
    assert not (folder / FAILED).exists()


def test_what_stops_a_sweep_is_no_failure_of_a_row(tmp_path):
    for code in (ExitCode.SAVED, ExitCode.INTERRUPTED):
        with pytest.raises(SystemExit), isolate_failures(job(tmp_path / "a")):
            raise SystemExit(code)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("handler", [StopRequest().listen, passing_signals_on])
def test_a_signal_to_a_row_that_is_about_to_end_stops_the_sweep(tmp_path, handler):
    with pytest.raises(SystemExit, match="130"), isolate_failures(job(tmp_path)), handler():
        os.kill(os.getpid(), signal.SIGTERM)
    with isolate_failures(job(tmp_path)):
        pass


def test_rows_have_the_folders_that_hydra_was_configured_to_give(tmp_path):
    for subdir, names in {
        "${hydra.job.num}": ["0", "1"],
        "a/${seed}": ["a/3", "a/4"],
        "s${seed}_${train.iterations}": ["s3_5", "s4_5"],
    }.items():
        words = [f"hydra.sweep.subdir={subdir}"]
        config = compose_with_hydra(*words)
        with open_dict(config):
            config.hydra.overrides.task = ["train.iterations=5", "seed=3,4"]
            assert list(plan_sweep(config)) == names
    words = ["hydra.sweep.subdir=same"]
    config = compose_with_hydra(*words)
    config.hydra.overrides.task = ["seed=3,4"]
    with pytest.raises(SweepError, match="same"), open_dict(config):
        plan_sweep(config)


def test_rows_may_come_from_folders_of_ones_own(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /head: dsconv]\n"
    )
    config = compose_with_hydra(f"hydra.searchpath=[{tmp_path}]")
    with open_dict(config):
        config.hydra.overrides.task = ["experiment=mine", "seed=0,1"]
        assert list(plan_sweep(config)) == [
            f"cityscapes_panoptic_xception65_dsconv-seed={seed}" for seed in (0, 1)
        ]
