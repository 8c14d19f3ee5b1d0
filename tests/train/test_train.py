"""mode=train on a tiny model: metrics, files, refusals, and train.fast_dev_run."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from tests.runs import SMALL, in_process
from tests.train.tiny_run import (
    TinyEvaluation,
    TinyModel,
    metrics,
    run_training,
)


def test_a_run_leaves_losses_checkpoints_and_results(tmp_path):
    evaluation = TinyEvaluation()
    loggers = {"tensorboard": TensorBoardLogger()}
    results = run_training(tmp_path, evaluation=evaluation, loggers=loggers)
    assert results["metrics"] == {"PQ": 50.0}
    assert evaluation.calls == 1
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == list(range(6))
    assert all({"total_loss", "loss_fit", "lr", "data_time", "time"} <= set(x) for x in lines[2:])
    assert list(tmp_path.glob("events.out.tfevents*"))
    kept = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert kept == [
        *("model_0000003.pth", "model_0000005.pth", "model_best.pth", "model_final.pth")
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"


def test_a_schedule_that_ends_before_training_is_refused(tmp_path):
    short = partial(WarmupPolyLR, max_iters=5, warmup_iters=2)
    with pytest.raises(ValueError, match=r"max_iters=5 is shorter than train\.iterations=6"):
        run_training(tmp_path, schedule=short)
    run_training(tmp_path / "longer", schedule=partial(WarmupPolyLR, max_iters=9, warmup_iters=2))


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 5}, r"schedule\.total_steps=5 is shorter"),
        ("ReduceLROnPlateau", {"mode": "max"}, r"waits for the metric.*set train\.eval_period"),
        ("ReduceLROnPlateau", {}, r"schedule\.mode=min, but of the metric mIoU the higher"),
        ("CosineAnnealingLR", {"T_max": 6, "eta_max": 1}, r"unexpected keyword argument 'eta_max'"),
        ("LambdaLR", {"lr_lambda": None}, "while building .*LambdaLR.*not callable"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(tmp_path, schedule, options, message):
    made = partial(getattr(torch.optim.lr_scheduler, schedule), **options)
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, schedule=made, best="mIoU", eval_period=int(not options))


def test_a_schedule_whose_state_no_checkpoint_can_hold_is_refused(tmp_path):
    class Opaque(torch.optim.lr_scheduler.ConstantLR):
        def state_dict(self):
            return {"factor": Path("x")}

    with pytest.raises(ValueError, match=r"cannot hold the state of .*Opaque"):
        run_training(tmp_path, schedule=Opaque)


def test_a_resumed_run_can_be_longer_and_follows_the_longer_schedule(tmp_path):
    run_training(tmp_path, iterations=4)
    run_training(tmp_path, iterations=8, resume=True)
    rates = [0.05 * (1 - i / 8) ** 0.9 for i in range(4, 8)]
    assert [line["lr"] for line in metrics(tmp_path)][4:] == pytest.approx(rates)


def test_a_run_is_not_overwritten(tmp_path):
    run_training(tmp_path)
    with pytest.raises(ValueError, match="resume=true"):
        run_training(tmp_path)


def test_resuming_nothing_is_an_error_and_auto_starts(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        run_training(tmp_path, resume=True)
    run_training(tmp_path, resume="auto")
    evaluation = TinyEvaluation()
    run_training(tmp_path, resume="auto", evaluation=evaluation)  # done already: evaluates again
    assert evaluation.calls == 1
    with pytest.raises(ValueError, match="resume=maybe"):
        run_training(tmp_path, resume="maybe")


def test_weights_start_a_run(tmp_path):
    run_training(tmp_path / "first")
    model = TinyModel()
    with torch.no_grad():
        model.head.weight.zero_()
    run_training(
        tmp_path / "second",
        model=model,
        weights=str(tmp_path / "first" / "model_final.pth"),
        iterations=1,
    )
    first = metrics(tmp_path / "first")[0]["total_loss"]
    assert metrics(tmp_path / "second")[0]["total_loss"] < first


def test_a_best_figure_without_a_meaning_is_refused_before_training(tmp_path):
    with pytest.raises(
        ValueError, match=r"checkpoint.best=pq is no metric of this.*; choose one of PQ"
    ):
        run_training(tmp_path, best="pq")
    assert not list(tmp_path.glob("*.pth"))


def test_a_best_figure_is_one_that_the_evaluation_will_have(tmp_path):
    evaluation = TinyEvaluation()
    evaluation.metric_names = ["PQ", "mIoU"]
    for best, message in (
        ("AP", r"best=AP is no metric of this evaluation; choose one of PQ, mIoU$"),
        ("ema/PQ", r"best=ema/PQ \(.*train\.ema=0\.9999 makes\).*PQ, mIoU$"),
    ):
        with pytest.raises(ValueError, match=message):
            run_training(tmp_path, best=best, evaluation=evaluation)
    with pytest.raises(ValueError, match="choose one of PQ, mIoU, ema/PQ, ema/mIoU"):
        run_training(tmp_path, best="ema/AP", ema=0.9, evaluation=evaluation)
    assert not evaluation.calls
    run_training(tmp_path, best="ema/PQ", ema=0.9, evaluation=evaluation)
    assert evaluation.calls


def test_what_an_evaluation_could_not_save_is_known_before_the_training(tmp_path):
    evaluation = TinyEvaluation()

    def refuse(folder):
        raise ValueError(f"{folder} holds a file of others")

    evaluation.check_folder = refuse
    with pytest.raises(ValueError, match=f"{tmp_path} holds a file of others"):
        run_training(tmp_path, evaluation=evaluation)
    assert not evaluation.calls
    assert not (tmp_path / "metrics.json").exists()


def test_a_best_figure_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.best=AP is no metric.*PQ"):
        run_training(tmp_path, best="AP")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "train.precision=fp8"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"iterations": 0}, "train.iterations=0"),
        ({"log_period": 0}, "train.log_period=0"),
        ({"iterations": 10.0}, "whole number"),
        ({"precision": "tf32"}, "needs a GPU"),
        ({"clip_norm": 0.0}, "train.clip_norm=0.0"),
        ({"on_nonfinite": "ignore"}, "train.on_nonfinite=ignore"),
        ({"max_nonfinite_skips": -1}, "train.max_nonfinite_skips=-1"),
        ({"on_error": "ignore"}, "checkpoint.on_error=ignore"),
        ({"kept": 0}, "checkpoint.kept=0"),
        ({"accumulate": 3}, "choose 1, 2, 4 or 8"),
        ({"overfit_batches": -1}, "train.overfit_batches=-1"),
    ],
)
def test_impossible_settings_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, **change)


def test_a_few_iterations_in_a_folder_of_their_own(tmp_path):
    evaluation = TinyEvaluation()
    for _ in range(2):  # the second replaces the first
        run_training(tmp_path, iterations=1000, fast_dev_run=True, evaluation=evaluation)
    assert evaluation.limit == 4
    assert evaluation.calls == 4
    assert [p.name for p in tmp_path.iterdir()] == ["fast_dev_run"]
    folder = tmp_path / "fast_dev_run"
    assert {p.name for p in folder.glob("*.pth")} == {
        *("model_0000001.pth", "model_0000003.pth", "model_best.pth", "model_final.pth")
    }
    assert len((folder / "metrics.json").read_text().splitlines()) >= 4
    real = TinyEvaluation()
    run_training(tmp_path, evaluation=real)  # the real run may come in the same folder
    assert real.limit is None


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("toy_cityscapes", "panoptic"),
        ("toy_coco", "semantic"),
        pytest.param("toy_cityscapes", "semantic", marks=pytest.mark.slow),
        pytest.param("toy_coco", "panoptic", marks=pytest.mark.slow),
    ],
)
@pytest.mark.thorough
def test_on_every_dataset_and_task(tmp_path, toy, dataset, task):
    saved = "[panoptic,instances]" if task == "panoptic" else "semantic"
    overrides = [*SMALL, *toy[dataset], f"task={task}", "dataset.root.num_val=6"]
    extras = ["train.iterations=1", "train.ema=0.9", f"evaluation.save={saved}"]
    extras += ["evaluation.official=true", "evaluation.picture_count=1"]
    extras += ["evaluation.best_and_worst=1", "evaluation.charts=false"]
    results = in_process(tmp_path, *overrides, *extras, "train.fast_dev_run=true")
    said = "fast_dev_run: 4 of 6 images, no result"
    assert results["num_images"] == 4
    assert results["no_result"] == said
    assert results["published"] is None
    for folder in (tmp_path / "fast_dev_run", tmp_path / "fast_dev_run" / "ema"):
        summary = json.loads((folder / "results.json").read_text())
        assert next(iter(summary)) == "no_result"
        for name in ("results.md", "results.csv"):
            assert said in (folder / name).read_text().splitlines()[0]
        assert (folder / "predictions.png").is_file()
        assert list((folder / "pictures").iterdir())
        assert any((folder / "predictions").iterdir())
    assert said in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "results.json").exists()
    assert any(key.startswith("ema/") for key in results["metrics"])
