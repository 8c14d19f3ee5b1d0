"""What a run says about the recipe it leaves, and the learning rate that follows the batch."""

import logging

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from omegaconf import OmegaConf
from torch import nn

from panoptic_dl.config import compose
from panoptic_dl.data.loader import accumulation
from panoptic_dl.models.batch_norm import SyncBatchNorm
from panoptic_dl.train.recipe import (
    Recipe,
    find_differences,
    images_of_statistics,
    scale_learning_rate,
)
from tests.train.tiny_run import metrics, run_training, train_settings

RECIPE = Recipe(iterations=90000, batch_size=32, lr=1e-3)


def found(*, lr=1e-3, accumulate=1, layer=None, **changes):
    model = nn.Sequential(nn.Linear(1, 1), *([] if layer is None else [layer]))
    settings = train_settings(**{"iterations": 90000, "batch_size": 32} | changes)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    of_run = (settings, model, optimizer, accumulate, {})
    return {d.setting: d for d in find_differences(RECIPE, *of_run)}


def test_the_recipe_itself_differs_in_nothing():
    assert found() == {}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"batch_size": 16}, {"train.batch_size", "images seen"}),
        ({"batch_size": 16, "iterations": 180000}, {"train.batch_size", "train.iterations"}),
        ({"lr": 5e-4}, {"optimizer.lr"}),
        ({"layer": nn.BatchNorm1d(1)}, set()),
        ({"precision": "bf16"}, {"train.precision"}),
        ({"clip_norm": 1.0}, {"train.clip_norm"}),
    ],
)
def test_what_changes_results_is_named(changes, names):
    differences = found(**changes)
    assert set(differences) == names
    assert all(d.effect for d in differences.values())


def test_statistics_of_a_part_of_the_batch_are_named():
    differences = found(layer=nn.BatchNorm1d(1), accumulate=8)
    assert differences["images of BatchNorm's statistics"].run == "4"
    assert set(differences) == {"images of BatchNorm's statistics", "forward passes a step"}


def test_what_changes_no_results_is_logged_too(tmp_path, caplog):
    assert {d.setting: d.effect for d in found(accumulate=8, ema=0.99).values()} == {
        "train.ema": None,
        "forward passes a step": None,
    }
    with caplog.at_level(logging.INFO):
        run_training(tmp_path, accumulate=2, iterations=2)
    row = "| forward passes a step            | 1        | 2          | no change of results |"
    assert row.replace(" ", "") in caplog.text.replace(" ", "")


def test_a_scaled_rate_is_said_to_be():
    changes = {"batch_size": 16, "lr": 5e-4, "auto_scale_lr": True}
    assert found(**changes)["optimizer.lr"].effect == "scaled by 0.5, linearly with the batch"
    assert "auto_scale_lr=true" not in found(**changes)["train.batch_size"].effect
    assert "auto_scale_lr=true" in found(batch_size=16)["train.batch_size"].effect


def test_images_of_statistics():
    def model(*layers):
        return nn.Sequential(*layers)

    synchronised = model(SyncBatchNorm(2), nn.SyncBatchNorm(2), NaiveSyncBatchNorm(2))
    assert images_of_statistics(synchronised, 4, 8) == 32
    assert images_of_statistics(model(nn.BatchNorm2d(2), NaiveSyncBatchNorm(2)), 4, 8) == 4
    assert images_of_statistics(model(nn.GroupNorm(1, 2)), 4, 8) is None


def test_the_rates_of_all_groups_follow_the_batch():
    a, b = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.2}, {"params": [b]}], lr=0.1)
    assert scale_learning_rate(optimizer, RECIPE, 8) == 0.25
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.025]
    assert optimizer.defaults["lr"] == 0.025


@pytest.mark.parametrize("name", ["iterations", "batch_size", "lr"])
def test_a_recipe_without_numbers_is_refused(name):
    with pytest.raises(ValueError, match=f"recipe_record.{name}=0"):
        Recipe(**{"iterations": 1, "batch_size": 1, "lr": 1.0, name: 0})


def test_a_run_scales_its_rate_only_if_asked(tmp_path, caplog):
    recipe = {"iterations": 6, "batch_size": 16, "lr": 0.05}
    with caplog.at_level(logging.WARNING):
        run_training(tmp_path / "as it is", recipe=recipe)
    assert "differs from its recipe: metrics will too" in caplog.text
    assert "multiplied" not in caplog.text
    run_training(tmp_path / "scaled", recipe=recipe, auto_scale_lr=True)
    assert "multiplied by 0.5" in caplog.text
    first, second = (
        [line["lr"] for line in metrics(tmp_path / name)] for name in ("as it is", "scaled")
    )
    assert second == pytest.approx([rate / 2 for rate in first])


def test_a_resumed_run_is_scaled_once(tmp_path):
    recipe = {"iterations": 8, "batch_size": 16, "lr": 0.05}
    run_training(tmp_path, iterations=4, recipe=recipe, auto_scale_lr=True)
    run_training(tmp_path, iterations=8, recipe=recipe, auto_scale_lr=True, resume=True)
    rates = [0.025 * (1 - i / 8) ** 0.9 for i in range(4, 8)]
    assert [line["lr"] for line in metrics(tmp_path)][4:] == pytest.approx(rates)


def test_a_run_as_its_recipe_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run_training(tmp_path)
    assert "Trained as the recipe says" in caplog.text


@pytest.fixture(scope="module", params=["dataset=cityscapes", "dataset=coco", "task=semantic"])
def recipe(request):
    """An override and its config."""
    return request.param, compose([request.param])


@pytest.mark.parametrize("name", ["1gpu", "2gpu", "4gpu", "8gpu", "cpu"])
def test_presets_keep_batch_rate_and_length(name, recipe):
    override, plain = recipe
    preset = compose([override, f"hardware={name}"])
    processes = max(1, preset.launch.num_gpus)
    assert str(preset.launch.num_gpus) == name.removesuffix("gpu").replace("cpu", "0")
    for key in ("batch_size", "iterations"):
        assert preset.train[key] == plain.train[key]
    assert preset.optimizer == plain.optimizer
    passes = accumulation(
        preset.train.batch_size, processes, preset.train.images_per_gpu, preset.train.accumulate
    )
    share = preset.train.batch_size // processes // passes
    assert share * processes * passes == plain.train.batch_size
    assert share <= 8


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ([], []),
        (["optimizer=adam", "task=panoptic"], []),
        (["optimizer=sgd"], [("optimizer", "adam", "sgd")]),
        (["task=semantic", "optimizer=sgd"], []),
        (
            ["schedule=cosine", "loss=[focal,class_weights]", "augmentation=photometric"],
            [
                ("schedule", "poly", "cosine"),
                ("loss", "published", "[focal,class_weights]"),
                ("augmentation", "published", "photometric"),
            ],
        ),
    ],
)
def test_other_options_than_the_recipes_are_named(tmp_path, caplog, overrides, rows):
    config = compose(["dataset=toy_coco", *overrides])
    recipe = OmegaConf.to_container(config.recipe_record)
    rate = {"iterations": 6, "batch_size": 8, "lr": 0.05}  # of the tiny run
    with caplog.at_level(logging.INFO):
        run_training(tmp_path, recipe=recipe | rate, choice=dict(config.choice))
    found = [line for line in caplog.text.splitlines() if line.endswith(" |")]
    cells = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in found]
    assert [row for row in cells if row[0] in recipe["choices"]] == [
        (*row, f"another {row[0]}") for row in rows
    ]
    assert ("metrics will too" in caplog.text) == bool(rows)


def test_options_in_a_recipes_defaults_are_the_recipes(tmp_path):
    file = tmp_path / "recipe" / "mine.yaml"
    file.parent.mkdir()
    record = "recipe_record: {iterations: 9, batch_size: 8, lr: 0.1}"
    defaults = "defaults: [{/optimizer: adamw}, _self_, {override /schedule: cosine}]"
    file.write_text(f"# @package _global_\n{defaults}\n{record}\n")
    config = compose(["recipe=mine", "loss=dice"], tmp_path)
    wanted = {"optimizer": "adamw", "schedule": "cosine", "augmentation": "published"}
    assert config.recipe_record.choices == wanted | {"loss": "published"}
    assert {group: config.choice[group] for group in config.recipe_record.choices} == (
        wanted | {"loss": "dice"}
    )


def test_an_override_does_not_change_the_record():
    config = compose(["train.batch_size=8", "optimizer.lr=0.1", "train.iterations=7"])
    published = {"iterations": 90000, "batch_size": 32, "lr": 1e-3}
    assert {name: config.recipe_record[name] for name in published} == published
    assert (config.train.batch_size, config.optimizer.lr, config.train.iterations) == (8, 0.1, 7)
