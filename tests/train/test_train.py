"""mode=train on a tiny model: metrics, files, refusals, and train.fast_dev_run."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.layers import get_norm
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from panoptic_dl.config import build, compose
from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from panoptic_dl.train.train import build_optimizer
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


def test_a_schedule_whose_state_no_checkpoint_can_hold_resumes(tmp_path):
    class Opaque(torch.optim.lr_scheduler.ConstantLR):
        def state_dict(self):
            return {"factor": Path("x")}

    for folder, lengths in ((tmp_path / "whole", [9]), (tmp_path / "parts", [3, 9])):
        for iterations in lengths:
            run_training(folder, iterations=iterations, resume="auto", schedule=Opaque)
    whole, parts = (metrics(tmp_path / name) for name in ("whole", "parts"))
    assert [x["lr"] for x in whole] == [x["lr"] for x in parts]
    assert len({x["lr"] for x in whole}) == 2


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
        ({"clip_norm": 0.0}, "train.clip_norm=0.0"),
        ({"on_nonfinite": "ignore"}, "train.on_nonfinite=ignore"),
        ({"max_nonfinite_skips": -1}, "train.max_nonfinite_skips=-1"),
        ({"on_error": "ignore"}, "checkpoint.on_error=ignore"),
        ({"kept": 0}, "checkpoint.kept=0"),
        ({"accumulate": 3}, "choose one of 1, 2, 4, 8"),
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


class Net(nn.Module):
    """Kinds of parameters that optimizers tell apart: convolution, norm, bias, layer scale."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.Conv2d(3, 4, 1), "stage": nn.Sequential(nn.Conv2d(4, 4, 1))}
        )
        self.backbone["stage"].append(nn.BatchNorm2d(4))
        self.backbone["frozen"] = nn.Conv2d(1, 1, 1).requires_grad_(requires_grad=False)
        self.head = nn.Linear(4, 2)
        self.gamma = nn.Parameter(torch.ones(4))


OPTIMIZER = {"optimizer": torch.optim.SGD, "lr": 0.5, "weight_decay": 0.1}


def options_of(optimizer, model):
    """(rate, decay) of each parameter that is trained, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("changes", [[], ["bias_lr_factor=2", "weight_decay_bias=0.3"]])
def test_groups_without_factors_are_those_of_detectron2(name, changes):
    config = compose([f"optimizer={name}", *(f"optimizer.{change}" for change in changes)])
    model = Net()
    del model.gamma  # of which Detectron2 knows nothing
    keys = ("weight_decay", "weight_decay_norm", "weight_decay_bias", "bias_lr_factor")
    wanted = get_default_optimizer_params(
        model, base_lr=config.optimizer.lr, **{key: config.optimizer[key] for key in keys}
    )
    made = build(config.optimizer)(model).param_groups
    for group, other in zip(made, wanted, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
        assert (group["lr"], group["weight_decay"]) == (other["lr"], other["weight_decay"])


def test_parts_have_rates_of_their_own():
    model = Net()
    factors = {"backbone.stage": 0.5, "backbone": 0.1, "head": 0}
    decay = {"weight_decay_norm": 0.0, "weight_decay_bias": 0.2}
    made = build_optimizer(model, **OPTIMIZER, **decay, bias_lr_factor=2.0, lr_factor=factors)
    assert options_of(made, model) == {
        "backbone.stem.weight": (0.05, 0.1),
        "backbone.stem.bias": (0.1, 0.2),
        "backbone.stage.0.weight": (0.25, 0.1),
        "backbone.stage.0.bias": (0.5, 0.2),
        "backbone.stage.1.weight": (0.25, 0.0),
        "backbone.stage.1.bias": (0.5, 0.2),
        "head.weight": (0.0, 0.1),
        "head.bias": (0.0, 0.2),
        "gamma": (0.5, 0.0),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_factor": {"backbon": 0.1}}, "lr_factor: the model has no backbon; .*backbone, head"),
        ({"lr_factor": {"back": 0.1}}, "has no back;"),
        ({"lr_factor": 0.1}, r"lr_factor=0\.1 must be such as \{backbone: 0\.1\}"),
        ({"lr_factor": {"head": -1}}, r"lr_factor\.head=-1 must be a number, at least 0"),
        ({"lr_factor": {"head": {"weight": 1}}}, r"lr_factor\.head=.* must be a number"),
        ({"layer_decay": 0.5}, r"layer_decay=0\.5: only encoders of timm know the order"),
        ({"layer_decay": 2}, r"layer_decay=2 must be a number, above 0 and at most 1"),
    ],
)
def test_factors_that_cannot_be_are_refused(change, message):
    decay = {"weight_decay_norm": 0.0, "weight_decay_bias": 0.0}
    with pytest.raises(ValueError, match=message):
        build_optimizer(Net(), **OPTIMIZER, **decay, **change)


@pytest.mark.parametrize("name", ["test_vit", "convnextv2_atto", "test_efficientnet"])
def test_layer_decay_and_weight_decay_are_those_of_timm(name):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = nn.Module()
    model.backbone, model.head = nn.Module(), nn.Linear(1, 1)
    model.backbone.encoder = encoder = timm.create_model(name, num_classes=3)
    model.backbone.extra = nn.Linear(1, 1)  # such as a pyramid, which is trained from scratch
    made = build_optimizer(
        model,
        **OPTIMIZER,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        layer_decay=0.5,
        lr_factor={"backbone": 0.5},
    )
    skipped = encoder.no_weight_decay() if hasattr(encoder, "no_weight_decay") else ()
    groups = param_groups_layer_decay(encoder, 0.1, skipped, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = {
        names[id(parameter)]: (0.25 * group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    wanted |= {"backbone.extra.weight": (0.25, 0.1), "backbone.extra.bias": (0.25, 0.0)}
    wanted |= {"head.weight": (0.5, 0.1), "head.bias": (0.5, 0.0)}
    assert options_of(made, model) == wanted
    assert len({rate for rate, _ in wanted.values()}) > 4


@pytest.mark.parametrize("bias", [None, 0.0])
def test_norms_that_detectron2_does_not_count_as_such_do_not_decay(bias):
    pytest.importorskip("timm")
    from timm.layers import RmsNorm
    from timm.layers.grn import GlobalResponseNorm

    model = nn.Sequential(nn.Conv2d(4, 4, 1), get_norm("LN", 4), GlobalResponseNorm(4), RmsNorm(4))
    made = build_optimizer(model, **OPTIMIZER, weight_decay_norm=0.0, weight_decay_bias=bias)
    assert {name: decay for name, (_, decay) in options_of(made, model).items()} == {
        name: 0.1 if name == "0.weight" or (name == "0.bias" and bias is None) else 0.0
        for name, _ in model.named_parameters()
    }


def test_a_warm_up_without_an_end_is_said(caplog):
    schedule = build(compose(["schedule=cosine", "train.iterations=2"]).schedule)
    schedule(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5))
    assert "takes all of the 2 iterations: the rate never gets to optimizer.lr" in caplog.text


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant"])
def test_schedules_equal_those_of_detectron2(name):
    """But for the rate after the last iteration, which nothing uses."""
    config = compose([f"schedule={name}", "train.iterations=100", "schedule.warmup_iters=10"])
    ours, theirs = (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5) for _ in range(2))
    schedule = build(config.schedule)(ours)
    warmup = WarmupParamScheduler(build(config.schedule.multiplier), 0.001, 0.1)
    other = LRMultiplier(theirs, warmup, 100)
    rates = []
    for step in range(100):
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        rates.append(ours.param_groups[0]["lr"])
        for optimizer in (ours, theirs):
            optimizer.step()
        schedule.step()
        if step < 99:
            other.step()
    assert rates[0] == pytest.approx(0.0005)
    ends = {"cosine": (0.25, 0.000123), "multistep": (0.5, 0.005), "constant": (0.5, 0.5)}
    assert (rates[50], rates[99]) == pytest.approx(ends[name], rel=0.01)


def test_adamw_is_an_option_beside_that_of_the_recipe():
    words = ["optimizer=adamw", "task=semantic", "optimizer.lr_factor={backbone: 0.1}"]
    optimizer = build(compose(words).optimizer)(Net())
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["lr"] == 1e-4
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4, 0.1 * 1e-4}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05, 0.0}
    other = compose(["+optimizer.optimizer.momentum_decay=0.1", "task=panoptic",
                     "optimizer.optimizer._target_=torch.optim.NAdam"])  # fmt: skip
    assert type(build(other.optimizer)(Net())) is torch.optim.NAdam


def test_a_run_stops_when_its_metric_gets_no_better(tmp_path, caplog):
    evaluation = TinyEvaluation(10.0, 30.0, 20.0, 30.0, 40.0)
    stop = {"early_stop": {"metric": "PQ", "patience": 2}, "eval_period": 2, "period": 99}
    results = run_training(tmp_path, iterations=20, evaluation=evaluation, **stop)
    assert evaluation.calls == 4
    assert results["metrics"] == {"PQ": 30.0}
    assert [line["iteration"] for line in metrics(tmp_path)] == list(range(8))
    assert "Stopped after iteration 8 of 20: 2 evaluations in a row" in caplog.text
    manifest = json.loads((tmp_path / "checkpoints.json").read_text())["files"]
    assert manifest["model_final.pth"]["iteration"] == 7
    assert manifest["model_best.pth"]["iteration"] == 3
    again = TinyEvaluation(5.0)  # resumed, it is done, and evaluated once more
    results = run_training(tmp_path, iterations=20, evaluation=again, resume=True, **stop)
    assert (again.calls, results["metrics"]) == (1, {"PQ": 5.0})
    assert len(metrics(tmp_path)) == 8


@pytest.mark.parametrize(
    ("early_stop", "message"),
    [
        ({"metric": "PQ"}, r"early_stop=.* must be such as \{metric: PQ, patience: 5\}"),
        ({"patience": 5, "mode": "max"}, "must be such as"),
        ({"patience": 0}, r"patience=0 must be a whole number, at least 1"),
        ({"metric": "AP", "patience": 1}, r"early_stop\.metric=AP is no metric.*choose one of PQ"),
        ({"patience": 1}, r"set train\.eval_period"),
    ],
)
def test_an_early_stop_that_cannot_be_is_refused(tmp_path, early_stop, message):
    evaluation = TinyEvaluation()
    evaluation.metric_names = ["PQ"]
    options = {"evaluation": evaluation, "eval_period": int(early_stop != {"patience": 1})}
    with pytest.raises(ValueError, match=message):
        run_training(tmp_path, early_stop=early_stop, **options)
