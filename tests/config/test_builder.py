"""`build`: calls what a config describes, and only what configs may call."""

import os
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from panoptic_dl.config import TargetError, allow, build, compose
from panoptic_dl.config.builder import find_target, set_iterations
from panoptic_dl.config.composition import CONF
from panoptic_dl.core.errors import PartError
from tests.datasets.tiny_custom import write_own


def test_inner_targets_are_called_first():
    node = OmegaConf.create(
        {
            "_target_": "torch.nn.ModuleDict",
            "modules": {"a": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}},
        }
    )
    built = build(node)
    assert isinstance(built, nn.ModuleDict)
    assert built["a"].weight.shape == (3, 2)


def test_constructors_receive_plain_containers():
    node = {"_target_": "torch.nn.Identity", "_partial_": True, "x": [1, {"y": [2]}]}
    (x,) = build(OmegaConf.create(node)).keywords.values()
    assert type(x) is list
    assert type(x[1]) is dict
    assert type(x[1]["y"]) is list


def test_partial_waits_and_runtime_arguments_arrive():
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}
    waiting = build(OmegaConf.create(node))
    assert isinstance(waiting, partial)
    weights = [nn.Parameter(torch.zeros(1))]
    assert waiting(weights).param_groups[0]["lr"] == 0.5
    assert build({"_target_": "torch.optim.SGD", "lr": 0.1}, params=weights).defaults["lr"] == 0.1


def test_interpolations_reach_outside_the_node():
    config = OmegaConf.create(
        {"n": 5, "layer": {"_target_": "torch.nn.Identity", "x": "${n}", "_partial_": True}}
    )
    assert build(config.layer).keywords == {"x": 5}


def test_missing_values_are_named():
    config = OmegaConf.create({"_target_": "torch.nn.Dropout", "p": "???"})
    with pytest.raises(PartError, match=r"Missing mandatory value: p$"):
        build(config)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.nn.Linear", "oops": 1}, r"Linear\(oops\): missing a required"),
        ({"_target_": "torch.nn.Linear", "_partial_": True, "oops": 1}, "unexpected.*'oops'"),
        ({"_target_": "torch.nn.Dropout", "p": "x"}, r"dropout\.Dropout\(p\): TypeError: '<"),
        ({"_target_": "torch.nn.Dropout", "p": 2}, r"dropout\.Dropout\(p\): dropout probability"),
        ({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 1}, "RuntimeError: "),
    ],
)
def test_whatever_a_part_of_others_raises_names_it_in_one_message(node, message):
    with pytest.raises(PartError, match=message):
        build(node)


def test_errors_of_our_own_parts_are_passed_on():
    with pytest.raises(TypeError, match="has no len"):
        build({"_target_": "panoptic_dl.core.classes.count_classes", "classes": None})


def test_lazy_calls_of_python_code_build_too():
    assert isinstance(build(L(nn.Conv2d)(in_channels=1, out_channels=1, kernel_size=1)), nn.Conv2d)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.load",
        "torch.nnx.Linear",
        "torch.nn.modules.module.os.system",
        "torch.nn.modules.module.sys.exit",
        "torch.optim.optimizer.functools.partial",
        "panoptic_dl.config.composition.compose",
        "panoptic_dl.launch.session.subprocess.check_output",
        "panoptic_dl.launch.session._git",
        "panoptic_dl.launch.session.start",
        "panoptic_dl.core.parallel.parallel_map",
        "panoptic_dl.modes.evaluate._to_tensor",
        "panoptic_dl.models.panoptic_deeplab.PanopticDeepLab.__init__",
        "detectron2.config.LazyConfig.load",
        "detectron2.evaluation.evaluator.os.system",
        "torch.nn",
        "",
        None,
        3,
    ],
)
def test_other_targets_are_refused_and_not_run(target, tmp_path):
    with pytest.raises(TargetError):
        build({"_target_": target, "_partial_": True})


def test_a_refused_module_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("import os; os.environ['EVIL'] = '1'\ndef f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TargetError, match=r"allow\(\"evil_module\"\)"):
        build({"_target_": "evil_module.f"})
    assert "EVIL" not in os.environ


def test_an_unknown_name_in_an_allowed_package_is_named():
    with pytest.raises(TargetError, match=r"torch\.nn\.Lineer"):
        build({"_target_": "torch.nn.Lineer"})


def test_python_code_can_extend_the_list(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text("def seven():\n    return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("panoptic_dl.config.builder.ALLOWED", ["torch.nn"])
    allow("my_models")
    assert build({"_target_": "my_models.seven"}) == 7


def test_a_search_may_call_the_report_that_its_config_names():
    from panoptic_dl.report.search import report_search

    sweeper = OmegaConf.load(CONF / "hydra" / "sweeper" / "optuna.yaml")
    assert find_target(sweeper.report) is report_search


def length(folder, *overrides, mode="train"):
    config = compose(["backbone=hrnet_tiny", "dataset=coco_format", *overrides])
    lines = set_iterations(config, mode, folder)
    OmegaConf.resolve(config)
    numbers = config.train.iterations, config.recipe_record.iterations, config.schedule.warmup_iters
    assert config.schedule.max_iters == config.train.iterations
    return (*numbers, "".join(lines))


def test_epochs_become_iterations(tmp_path):
    root = f"dataset.root={write_own(tmp_path, train=5)}"
    *numbers, said = length(tmp_path, root)
    assert numbers == [2000, 2000, 200]
    assert said.endswith("100 x 5 images / 8, and at least 2,000: 2,000 iterations")
    assert length(tmp_path, root, "train.batch_size=4")[:3] == (4000, 2000, 200)
    assert length(tmp_path, root, "recipe_record.epochs=9000")[:3] == (5625, 5625, 562)
    assert length(tmp_path, root, "train.iterations=7") == (7, 2000, 200, "")
    given = ["recipe_record={iterations: 250, warmup_iters: 50}"]
    assert length(tmp_path, root, *given) == (250, 250, 50, "")
    *numbers, said = length(tmp_path, root, "train.epochs=50.5")
    assert numbers == [32, 2000, 200]  # 252.5 images
    assert said == "train.epochs=50.5: 50.5 x 5 images / 8: 32 iterations"
    assert length(tmp_path, root, *given, "train.epochs=2")[:3] == (2, 250, 50)
    with pytest.raises(ValueError, match=r"epochs=2 and train.iterations=7 say the same thing"):
        length(tmp_path, root, "train.epochs=2", "train.iterations=7")


def test_a_run_that_goes_on_keeps_the_length_it_was_begun_with(tmp_path):
    root = f"dataset.root={write_own(tmp_path, train=5)}"
    (tmp_path / ".hydra").mkdir()
    record = "recipe_record: {iterations: 30000, warmup_iters: 1000}"  # as earlier versions had it
    (tmp_path / ".hydra" / "resolved.yaml").write_text(record)
    assert length(tmp_path, root)[:3] == (30000, 30000, 1000)


def test_only_trainings_need_the_dataset_for_a_length(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.root"):
        length(tmp_path, "train.epochs=2")
    for mode in ("eval", "doctor"):
        config = compose(["dataset=coco_format"])
        assert not set_iterations(config, mode, tmp_path)
        assert OmegaConf.is_missing(config.recipe_record, "iterations") == (mode == "eval")
        OmegaConf.resolve(config)
    assert not set_iterations(compose(["dataset=cityscapes"]), "train", tmp_path)


@pytest.mark.parametrize("stop", ["KeyboardInterrupt", "SystemExit(130)"])
def test_a_signal_while_a_module_is_imported_is_no_missing_target(tmp_path, monkeypatch, stop):
    (tmp_path / "interrupted.py").write_text(f"raise {stop}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("panoptic_dl.config.builder.ALLOWED", ["interrupted"])
    with pytest.raises(KeyboardInterrupt if stop[0] == "K" else SystemExit):
        build({"_target_": "interrupted.Part"})
