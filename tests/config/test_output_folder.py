"""All processes of a run share one output folder, and a requeued command finds it again."""

import pytest
from hydra.types import RunMode

from panoptic_dl.config.output_folder import (
    CheckOutputFolder,
    _shared_folder,
    check_requeue,
    is_recorded,
)
from tests.runs import compose_with_hydra


def test_processes_that_would_make_a_folder_each_need_a_name(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="give all of them the same run_dir=/shared/folder"):
        _shared_folder(compose_with_hydra("launch.num_machines=2"))
    named = compose_with_hydra("launch.num_machines=2", f"run_dir={tmp_path}")
    assert _shared_folder(named) == tmp_path
    for name, value in (("LOCAL_RANK", 0), ("WORLD_SIZE", 2), ("TORCHELASTIC_MAX_RESTARTS", 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit, match=r"run_dir=/shared/folder, and add resume=auto"):
        _shared_folder(compose_with_hydra())


@pytest.mark.parametrize("by_torchrun", [True, False])
def test_sweeps_are_not_started_process_by_process(monkeypatch, by_torchrun):
    if by_torchrun:
        for name in ("LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.setenv(name, "0")
    config = compose_with_hydra(f"launch.num_machines={1 if by_torchrun else 2}")
    with pytest.raises(SystemExit, match="start one run, not a sweep"):
        CheckOutputFolder().on_multirun_start(config)


@pytest.mark.parametrize(
    ("overrides", "mode", "message"),
    [
        (["run_dir=x", "resume=false"], RunMode.RUN, "it needs resume=auto, not resume=false"),
        (["run_dir=x", "resume=true"], RunMode.RUN, "it needs resume=auto, not resume=true"),
        ([], RunMode.RUN, "run_dir=FOLDER"),
        (["run_dir=x/${now:%H}"], RunMode.RUN, "run_dir=FOLDER"),
        (["run_dir=x"], RunMode.MULTIRUN, "sweep_dir=FOLDER"),
        (["run_dir=x"], RunMode.RUN, None),
        (["sweep_dir=x"], RunMode.MULTIRUN, None),
        (["hydra/launcher=submitit_local"], RunMode.MULTIRUN, None),
        (["hydra/launcher=slurm"], RunMode.MULTIRUN, None),
    ],
)
def test_a_command_that_would_not_go_on_is_refused(overrides, mode, message):
    config = compose_with_hydra("launch.requeue=true", "resume=auto", *overrides)
    config.hydra.mode = mode
    if message is None:
        check_requeue(config, config.hydra)
    else:
        with pytest.raises(ValueError, match=message):
            check_requeue(config, config.hydra)
        config.launch.requeue = False
        check_requeue(config, config.hydra)


def test_the_main_process_of_a_run_that_is_no_trial_is_recorded():
    def recorded(*overrides):
        config = compose_with_hydra("run_dir=x", *overrides)
        return is_recorded(config, config.hydra)

    assert recorded()
    assert recorded("mode=eval", "train.fast_dev_run=true")
    assert not recorded("train.fast_dev_run=true")
    assert not recorded("launch.num_machines=2", "launch.machine_rank=1")


def test_jobs_of_one_second_have_folders_of_their_own(tmp_path):
    config = compose_with_hydra(f"run_dir={tmp_path}/${{now:%Y}}")
    folders = [_shared_folder(config) for _ in range(3)]
    assert [folder.name[4:] for folder in folders] == ["", "-2", "-3"]
    named = compose_with_hydra(f"run_dir={tmp_path}/mine")
    assert _shared_folder(named) == _shared_folder(named) == tmp_path / "mine"


@pytest.mark.parametrize("key", ["run_dir", "hydra.run.dir"])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose_with_hydra(f"{key}='~/mine'")
    CheckOutputFolder().on_run_start(config)
    assert config.hydra.run.dir == str(tmp_path / "mine")
    config = compose_with_hydra("sweep_dir='~/sweep'")
    CheckOutputFolder().on_multirun_start(config)
    assert config.hydra.sweep.dir == str(tmp_path / "sweep")
    again = compose_with_hydra("sweep_dir='~/sweep'", *config.hydra.overrides.hydra)  # of a row
    assert again.hydra.sweep.dir == str(tmp_path / "sweep")


@pytest.mark.parametrize("text", ["s3://bucket/x", "gs://bucket/x", "hf://x"])
def test_a_url_is_no_output_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"error: run_dir={text} is a URL"):
        CheckOutputFolder().on_run_start(compose_with_hydra(f"run_dir={text}"))
    with pytest.raises(SystemExit, match=f"error: sweep_dir={text} is a URL"):
        CheckOutputFolder().on_multirun_start(compose_with_hydra(f"sweep_dir={text}"))
    assert not list(tmp_path.iterdir())


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(SystemExit, match="Environment variable 'NOT_SET' not found"):
        CheckOutputFolder().on_run_start(compose_with_hydra("run_dir=${oc.env:NOT_SET}"))
