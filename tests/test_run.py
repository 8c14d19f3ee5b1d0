"""run.py in one process: training, evaluating and bad input, on toy data."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from panoptic_dl.config import build, compose
from tests.runs import HEAD, SMALL, command_line, in_process

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("dataset", "task"),
    list(itertools.product(("toy_cityscapes", "toy_coco"), ("panoptic", "semantic"))),
)
def test_train_then_eval_of_its_checkpoint_give_the_same_figures(tmp_path, toy, dataset, task):
    drawn = "evaluation.picture_count=1"
    overrides = [*SMALL, *toy[dataset], drawn, f"task={task}"]
    trained = in_process(tmp_path / "train", *overrides)
    saved = json.loads((tmp_path / "train" / "results.json").read_text())
    columns = {
        "toy_cityscapes": ["PQ", "SQ", "RQ", "mIoU", "AP"],
        "toy_coco": ["PQ", "SQ", "RQ", "box_AP", "mask_AP"],
    }[dataset]
    assert list(saved["metrics"])[:5] == (columns if task == "panoptic" else ["mIoU"])
    assert saved["num_images"] == 2
    assert (tmp_path / "train" / "predictions.png").is_file()
    weights = tmp_path / "train" / "model_final.pth"
    evaluated = in_process(tmp_path / "eval", *overrides, "mode=eval", f"weights={weights}")
    assert json.dumps(evaluated["metrics"]) == json.dumps(trained["metrics"])  # NaN equals NaN


COMBINATIONS = list(
    itertools.product(
        ("xception65", "hrnet48"),
        ("conv", "dsconv"),
        ("cityscapes", "coco"),
        ("panoptic", "semantic"),
    )
)


@pytest.mark.parametrize(("backbone", "head", "dataset", "task"), COMBINATIONS)
@pytest.mark.slow
def test_all_sixteen_combinations_train_and_evaluate(tmp_path, toy, backbone, head, dataset, task):
    parts = [f"backbone={backbone}", f"head={head}", f"task={task}"]
    results = in_process(
        tmp_path, *SMALL[1 + len(HEAD) :], *toy[f"toy_{dataset}"], *parts, "train.iterations=1"
    )
    assert results["num_images"] == 2


def test_the_error_of_an_attempt_is_gone_after_the_next(tmp_path, toy):
    (tmp_path / "error.txt").write_text("of an attempt before")
    in_process(tmp_path, *SMALL, *toy["toy_cityscapes"], "train.eval_at_end=false")
    assert not (tmp_path / "error.txt").exists()


def test_weights_of_another_architecture_are_described(tmp_path, toy):
    torch.save({"model": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(SystemExit):
        in_process(
            tmp_path / "run",
            *SMALL,
            *toy["toy_cityscapes"],
            "mode=eval",
            f"weights={tmp_path / 'w.pth'}",
        )
    assert "of another architecture" in (tmp_path / "run" / "error.txt").read_text()


@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
def test_a_trained_model_is_evaluated_by_all_means(tmp_path, toy, dataset):
    overrides = [*SMALL, *toy[dataset], "train.iterations=1"]
    trained = in_process(tmp_path / "trained", *overrides)
    weights = f"weights={tmp_path / 'trained' / 'model_final.pth'}"
    beside = ["evaluation.official=true", "evaluation.save=[panoptic,instances]"]
    evaluated = in_process(tmp_path / "model", *overrides, "mode=eval", weights, *beside)
    assert json.dumps(evaluated["metrics"]) == json.dumps(trained["metrics"])
    files = f"predictions={tmp_path / 'model' / 'predictions'}"
    scored = in_process(tmp_path / "files", *overrides, "mode=eval", files)
    expected = {key: value for key, value in trained["metrics"].items() if key != "mIoU"}
    assert json.dumps(scored["metrics"]) == json.dumps(expected)
    looks = ["evaluation.flip=true", "evaluation.scales=[1.0,1.5]"]
    averaged = in_process(tmp_path / "looks", *overrides, "mode=eval", weights, *looks)
    assert list(averaged["metrics"]) == list(trained["metrics"])


def refused(capsys, run_dir, *overrides):
    """The message of a run that ends with exit code 1; its traceback is in error.txt only."""
    with pytest.raises(SystemExit) as stop:
        command_line(*SMALL, *overrides, f"run_dir={run_dir}")
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert "Traceback" in (run_dir / "error.txt").read_text()
    assert json.loads((run_dir / "run.json").read_text())["status"] == "failed"
    return output.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mode=eval"], "mode=eval needs weights="),
        (["mode=eval", "weights=/nowhere/model.pth"], "weights=/nowhere/model.pth"),
        (["launch.num_gpus=64"], "launch.num_gpus=64, but this machine has"),
        (["launch.requeue=true"], "it needs resume=auto, not resume=false"),
    ],
)
def test_bad_input_is_one_message(tmp_path, toy, capsys, arguments, message):
    said = refused(capsys, tmp_path, *toy["toy_cityscapes"], *arguments)
    assert f"error: {message}" in said or f" {message}" in said


def test_a_damaged_image_met_in_training_is_one_message(tmp_path, toy, capsys):
    cache = f"dataset.root.root={tmp_path / 'cache'}"
    config = compose([*SMALL, *toy["toy_cityscapes"], cache])
    for image in Path(build(config.dataset.root)).glob("cityscapes/leftImg8bit/train/*/*.png"):
        image.write_bytes(image.read_bytes()[:2000])
    said = refused(capsys, tmp_path / "run", *toy["toy_cityscapes"], cache)
    assert "error: cannot read" in said
    assert "leftImg8bit" in said


def test_a_missing_dataset_names_folder_and_script(tmp_path, capsys):
    said = refused(capsys, tmp_path, "dataset=cityscapes", f"dataset.root={tmp_path}/none")
    assert f"{tmp_path}/none" in said
    assert "prepare_cityscapes.py" in said


def test_a_run_is_recorded_and_returns_its_first_metric(tmp_path, toy):
    metric = command_line(*SMALL, *toy["toy_cityscapes"], f"run_dir={tmp_path}")
    state = json.loads((tmp_path / "run.json").read_text())
    assert (state["status"], state["metrics"]["PQ"]) == ("finished", pytest.approx(metric))
    assert state["environment"]["processes"] == 1
    assert "${" not in (tmp_path / ".hydra" / "resolved.yaml").read_text()


def test_a_refused_start_leaves_the_run_and_an_accepted_one_is_its_config(tmp_path, toy, capsys):
    words = [*SMALL, *toy["toy_cityscapes"], "train.eval_at_end=false", f"run_dir={tmp_path}"]
    command_line(*words)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for more, message in {
        ("train.iterations=3",): "holds a run already",
        ("resume=auto", "optimizer.lr=0.5"): "other numbers: optimizer.lr differ",
        ("mode=eval", "weights=/nowhere/x.pth"): "/nowhere/x.pth",
    }.items():
        with pytest.raises(SystemExit):
            command_line(*words, *more)
        assert message in capsys.readouterr().err
        assert before == {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    command_line(
        *words, "train.iterations=3", "resume=auto", "optimizer.lr=0.5", "resume_changed=true"
    )
    assert "lr: 0.5" in (tmp_path / ".hydra" / "config.yaml").read_text()
    assert "| optimizer.lr" in (tmp_path / "log.txt").read_text()
    assert len(json.loads((tmp_path / "run.json").read_text())["attempts"]) == 2


def test_a_trial_leaves_no_record(tmp_path, toy):
    trial = ["train.fast_dev_run=true", "train.iterations=1", f"run_dir={tmp_path}"]
    command_line(*SMALL, *toy["toy_cityscapes"], *trial)
    assert not (tmp_path / "run.json").exists()
