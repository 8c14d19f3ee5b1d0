"""Checks of the config: whether the parts and numbers of an experiment fit together."""

import math
import warnings
from collections import Counter
from typing import Any

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from panoptic_dl.core.environment import detectron2_origin
from panoptic_dl.core.settings import CheckpointSettings, TrainSettings, experiment_name
from panoptic_dl.doctor import machine
from panoptic_dl.doctor.context import (
    Check,
    CheckContext,
    CheckResult,
    fail,
    from_problems,
    ok,
    warn,
)
from panoptic_dl.doctor.data import IN_HEADERS, SPLITS
from panoptic_dl.models.heads import PADDING, ClampedAvgPool2d
from panoptic_dl.train.recipe import Recipe, find_differences, images_of_statistics
from panoptic_dl.train.train import check_best, make_schedule
from panoptic_dl.weights.load import initial_weights, load_to_train
from panoptic_dl.weights.names import not_finite

# (height, width) of the published recipes, arXiv:1911.10194 and Detectron2's Panoptic-DeepLab.
PUBLISHED_CROPS = {"cityscapes": (512, 1024), "coco": (640, 640)}
MANY_EPOCHS = 2000  # twice those of Cityscapes' published recipe
MIN_BATCH_NORM = 4  # images; statistics of fewer are noise (Wu and He 2018, figure 1, for 2 and 4)
NORM_LAYERS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)
SEE_LOG = "see the error in log.txt: a part of the row cannot be built as it is configured"
BATCH = "train.batch_size of the message"
NORM_HINT = "a larger train.images_per_gpu, or backbone.norm=GN head.norm=GN"


def setup_checks() -> list[Check]:
    """The machine and the settings, before anything is built."""
    group = "set-up"
    return [
        Check(group, "packages", machine.check_packages, hint="make setup"),
        Check(group, "detectron2", lambda context: ok(detectron2_origin())),
        Check(group, "device", machine.check_device, hint="launch.num_gpus=0 runs on the CPU"),
        Check(group, "settings", _check_settings, hint="the values of the message"),
        Check(group, "loader processes", machine.check_loader_processes),
    ]


def checks() -> list[Check]:
    """Parts, numbers and weights."""
    group = "row"
    settings, device = "set-up: settings", "set-up: device"
    train_files, val_files = (
        [f"{split} data: {kind}" for kind in ("layout", *IN_HEADERS, "agreement")]
        for split in SPLITS
    )
    model, optimizer, batch = "row: model", "row: optimizer", "row: batch"
    return [
        Check(group, "classes", _check_classes, hint=SEE_LOG),
        Check(group, "model", _check_model, hint=SEE_LOG),
        Check(group, "weights", _check_weights, [model], "weights= of the same row, or none"),
        Check(group, "optimizer", _check_optimizer, [model, settings], SEE_LOG),
        Check(group, "batch", _check_batch, [settings, device], BATCH),
        Check(group, "recipe", _check_recipe, [batch, optimizer], SEE_LOG),
        Check(group, "length", _check_length, [settings, "train data: layout"], SEE_LOG),
        Check(group, "normalization", _check_normalization, [batch, model], SEE_LOG),
        Check(group, "crop", _check_crop, [model], SEE_LOG),
        Check(group, "shared memory", machine.check_shared_memory, [batch], "train.num_workers=0"),
        Check(group, "memory", machine.check_memory, [batch, optimizer], "train.images_per_gpu=1"),
        Check(group, "disk", machine.check_disk, [settings, optimizer], "another run_dir"),
        Check(group, "training loader", _check_loader, [batch, *train_files], SEE_LOG),
        Check(group, "evaluation", _check_evaluation, val_files, SEE_LOG),
    ]


def _check_settings(context: CheckContext) -> CheckResult:
    """Settings of training and checkpoints have possible values."""
    numbers = TrainSettings(**context.train)
    CheckpointSettings(**context.checkpoint)
    name = experiment_name(context.choice)
    return ok(f"{name}: {numbers.iterations:,} iterations of {numbers.batch_size} images")


def _check_recipe(context: CheckContext) -> CheckResult:
    """Differences between training and its recipe, and what they change."""
    settings, model = TrainSettings(**context.train), context.part("model")
    accumulate = settings.batch_size // context.num_processes // context.images_per_pass
    of_run = (settings, model, context.part("optimizer")(model), accumulate, context.choice)
    differences = find_differences(Recipe(**context.recipe), *of_run)
    return from_problems(
        "batch, learning rate, length and arithmetic are the recipe's",
        "numbers are not the recipe's: metrics will differ",
        "nothing, if meant; else leave out what changes them (docs/how-to/training_options.md)",
        [],
        [f"{d.setting}: {d.run} for {d.recipe} ({d.effect})" for d in differences if d.effect],
    )


def _check_length(context: CheckContext) -> CheckResult:
    """How often a training looks at each image."""
    numbers, images = TrainSettings(**context.train), len(context.splits["train"].records)
    epochs = numbers.iterations * numbers.batch_size / images
    found = (
        f"{numbers.iterations:,} iterations of {numbers.batch_size} images are "
        f"{epochs:{',.0f' if epochs >= 10 else '.2g'}} epochs of {images:,} images"
    )
    if epochs > MANY_EPOCHS:
        return warn(found, "train.epochs=100, if they are not meant: more learn images by heart")
    return ok(found)


def _check_batch(context: CheckContext) -> CheckResult:
    """The batch can be shared by the processes, in equal forward passes."""
    numbers, processes = context.train, context.num_processes
    images = context.images_per_pass
    passes = numbers["batch_size"] // processes // images
    shares = f"{processes} process{'es' * (processes > 1)} x {passes} pass{'es' * (passes > 1)}"
    return ok(f"{numbers['batch_size']} images = {shares} x {images}")


def _check_classes(context: CheckContext) -> CheckResult:
    """The numbers of the config, and names and colors, are those of the dataset's catalog."""
    number, things = context.part("num_classes"), sorted(context.part("thing_ids"))
    classes = context.part("classes")
    problems = []
    if len(classes) != number:
        problems.append(f"dataset.num_classes={number}, but dataset.classes are {len(classes)}")
    if sorted(classes.thing_ids) != things:
        odd = sorted(set(classes.thing_ids) ^ set(things))
        problems.append(f"dataset.thing_ids and things of dataset.classes differ in {odd}")
    for title, split in context.splits.items():
        where, names = f"{split.name} ({title})", split.class_names
        if names and names != list(classes.names):
            odd = [pair for pair in zip(names, classes.names, strict=False) if pair[0] != pair[1]]
            first = f", first {odd[0][0]} for {odd[0][1]}" if odd else ""
            problems.append(
                f"{where} has {len(names)} classes, dataset.classes {len(classes)}{first}"
            )
        known = split.metadata.get("thing_dataset_id_to_contiguous_id")
        if known and sorted(known.values()) != things:
            problems.append(f"things of {where} are not dataset.thing_ids")
        if split.ignore_label != context.ignore_label:
            problems.append(
                f"dataset.ignore_label={context.ignore_label}, but {where} has {split.ignore_label}"
            )
    return from_problems(
        f"{number} classes, {len(things)} of them things",
        "things are not as the dataset has them",
        "leave dataset.num_classes, thing_ids and ignore_label out, or choose the dataset= they "
        "belong to",
        problems,
    )


def _check_crop(context: CheckContext) -> CheckResult:
    """Which window image pooling has; metrics depend on it."""
    height, width = crop = tuple(context.sizes["crop_size"])
    modules = context.part("model").modules()
    windows = [module.kernel_size for module in modules if isinstance(module, ClampedAvgPool2d)]
    if not windows:
        return ok(f"crop {height} x {width}; the heads pool globally")
    window = max(windows)
    padded = tuple(math.ceil(side / PADDING) * PADDING for side in crop)
    found = f"crop {height} x {width}, image pooling over {window[0]} x {window[1]}"
    best = PUBLISHED_CROPS.get(context.choice["dataset"], crop)
    if best != crop:
        found += f"; the published crop is {best[0]} x {best[1]}"
        return warn(found, f"nothing, if meant; else dataset.crop_size=[{best[0]},{best[1]}]")
    if padded != crop:
        found += f"; crops are padded with black to multiples of {PADDING}"
        return warn(found, f"dataset.crop_size=[{padded[0]},{padded[1]}]")
    return ok(found)


def _check_normalization(context: CheckContext) -> CheckResult:
    """Which layers there are, and what their statistics are made of."""
    model: nn.Module = context.part("model")
    kinds = Counter(type(m).__name__ for m in model.modules() if isinstance(m, NORM_LAYERS))
    images = images_of_statistics(model, context.images_per_pass, context.num_processes)
    found = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "none"
    if images is None:
        return ok(found)
    found += f", statistics over {images} image{'s' if images > 1 else ''}"
    if context.num_processes == 1:
        found += " (one process: SyncBN is plain BN)"
    if images == 1:
        return fail(found, NORM_HINT)
    return warn(found, NORM_HINT) if images < MIN_BATCH_NORM else ok(found)


def _check_model(context: CheckContext) -> CheckResult:
    """Backbone and heads can be built and fit together."""
    model: nn.Module = context.part("model")
    count = sum(parameter.numel() for parameter in model.parameters())
    return ok(f"{type(model).__name__}, {count / 1e6:.1f} M parameters")


def _check_optimizer(context: CheckContext) -> CheckResult:
    """Optimizer and schedule can be made for the model."""
    optimizer = context.part("optimizer")(context.part("model"))
    settings, best = TrainSettings(**context.train), context.checkpoint["best"]
    schedule = make_schedule(context.part("schedule"), optimizer, settings, best)
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    return ok(
        f"{type(optimizer).__name__}, {len(rates)} groups, rate {max(rates):.3g}, "
        f"{type(schedule).__name__}"
    )


def _check_loader(context: CheckContext) -> CheckResult:
    """The stream of training samples can be made."""
    context.part("loader")
    return ok(f"samples of {context.splits['train'].name}")


def _check_evaluation(context: CheckContext) -> CheckResult:
    """Loader and evaluators of the validation split can be made, and measure `checkpoint.best`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of many processes: another row says it
        evaluation = context.part("evaluation")
    check_best(context.checkpoint["best"], evaluation, context.train["ema"])
    return ok(f"{', '.join(evaluation.evaluators)} of {evaluation.dataset}")


def _check_weights(context: CheckContext) -> CheckResult:
    """`weights=` covers the model or its backbone, with finite numbers; they are loaded."""
    model: Any = context.part("model")
    weights = context.weights
    if weights is None and getattr(model.backbone, "pretrained", False):
        weights = model.backbone.fetch_pretrained()
    if weights is None:
        if context.pretrained is None:
            return ok(f"none: training starts from {initial_weights(model.backbone)}")
        file = context.pretrained["file"]
        return warn(
            f"none: published metrics start from {file}, of {context.pretrained['source']}",
            f"weights={file} (pretrained=null if random weights are meant)",
        )
    match, classes = context.weights_match, context.part("classes")
    coverage = load_to_train(model, weights, context.image_format, match, classes)
    found = f"{weights}: {coverage.lines()[0]}"
    if bad := list(not_finite(model.state_dict())):
        return fail(
            f"{found}, but {len(bad)} tensors hold infinite values or NaN, such as {bad[0]}",
            "take another checkpoint: this one comes from a training that failed",
        )
    return ok(found)
