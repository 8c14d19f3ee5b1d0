"""The settings of a run: name, type, default, range and meaning of every key, once.

Each class is a group of the config and each field a key: `TrainSettings.batch_size` is
`train.batch_size`. The group's option `default` (`local` of `launch`), the kinds that values on
the command line and in experiment files must have, the listing of `python run.py --help`, and
docs/reference/settings.md are all made from these fields; ranges are checked when the object is
made.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

GROUPS: dict[str, type["Settings"]] = {}  # by the name of the group

EXPERIMENT_PARTS = ("dataset", "task", "backbone", "head")  # in the order of an experiment's name
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INFERENCE_PRECISIONS = (*PRECISIONS, "auto")


def key(default: Any, meaning: str, choices: Sequence[Any] = (), **limits: float) -> Any:
    """A field of a settings class.

    Args:
        default: as YAML has it; it may be an interpolation, such as `${dataset.image_size}`.
        meaning: one sentence, with the unit.
        choices: all values that there are, of the key or of each entry of a list.
        limits: `least`, `most`, `above`, `below`: of a number, or of each number of a list.
    """
    metadata = {"default": default, "meaning": meaning, "limits": limits, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Settings:
    """Base of the groups. Making one raises ValueError for a value of a wrong type or range."""

    group: ClassVar[str]

    def __init_subclass__(cls, group: str) -> None:
        cls.group = group
        GROUPS[group] = cls

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            check_value(f"{self.group}.{each.name}", value, hints[each.name], each.metadata)


@dataclass(frozen=True)
class TrainSettings(Settings, group="train"):
    """`train.*`."""

    iterations: int = key("${recipe_record.iterations}", "Number of optimizer steps.", least=1)
    epochs: float | None = key(
        None, "Passes over the training images, instead of `iterations`; null uses those.", above=0
    )
    batch_size: int = key(
        "${recipe_record.batch_size}", "Images per step, over all processes.", least=1
    )
    images_per_gpu: int | None = key(
        None, "Largest number of images per forward pass; null: the whole share.", least=1
    )
    accumulate: int | None = key(
        None, "Forward passes per step; null: as many as `images_per_gpu` needs.", least=1
    )
    auto_scale_lr: bool = key(
        False, "Multiply `optimizer.lr` by batch_size over the recipe's batch size (linear rule)."
    )
    num_workers: int = key(10, "Number of loader processes per training process.", least=0)
    precision: str = key(
        "tf32",
        "Arithmetic of the network: tf32 rounds convolutions to TF32 on GPUs that have it, as "
        "in Detectron2; fp32 is strict; fp16 scales the loss.",
        PRECISIONS,
    )
    channels_last: bool = key(False, "Channels-last format of weights and activations.")
    compile: bool | str = key(
        False,
        "Compile backbone and heads with `torch.compile`, in this mode or the default one "
        "(true); evaluations run them uncompiled.",
        (False, True, "default", "reduce-overhead", "max-autotune"),
    )
    activation_checkpointing: bool = key(
        False, "Compute the backbone's activations twice instead of keeping them, to save memory."
    )
    clip_norm: float | None = key(
        None, "Largest allowed L2 norm of the whole gradient; null: no limit.", above=0
    )
    ema: float | None = key(
        None,
        "Decay, such as 0.9999, of an average of the weights that is evaluated too; null: none.",
        above=0,
        below=1,
    )
    on_nonfinite: str = key(
        "stop", "Reaction to a loss or gradient that is infinite or NaN.", ("stop", "skip")
    )
    max_nonfinite_skips: int = key(10, "Largest number of steps that a run skips.", least=0)
    overfit_batches: int = key(
        0, "Train only on the first N batches, as a test; 0: on all data.", least=0
    )
    fast_dev_run: bool = key(
        False, "Run 4 iterations of everything on 4 images, in run_dir/fast_dev_run, as a test."
    )
    log_period: int = key(20, "Iterations between lines of console and metrics.json.", least=1)
    eval_period: int = key(0, "Iterations between evaluations; 0: only at the end.", least=0)
    eval_at_end: bool = key(True, "Evaluate after the last iteration.")
    early_stop: dict[str, Any] | None = key(
        None,
        "Stop after `patience` evaluations in a row without a better `metric`, such as {metric: "
        "PQ, patience: 5}; null: never.",
    )


@dataclass(frozen=True)
class CheckpointSettings(Settings, group="checkpoint"):
    """`checkpoint.*`."""

    period: int = key(
        5000, "Iterations between checkpoints; each evaluation and the end save one too.", least=1
    )
    kept: int = key(
        3, "Number of checkpoints to keep, besides model_final.pth and model_best.pth.", least=1
    )
    best: str | None = key(
        None, "Metric that selects model_best.pth, such as PQ; null: the first of the results."
    )
    on_error: str = key(
        "stop", "Reaction to a checkpoint that cannot be written (full disk).", ("stop", "continue")
    )


@dataclass(frozen=True)
class LaunchSettings(Settings, group="launch"):
    """`launch.*`; torchrun and several machines: docs/how-to/distributed.md."""

    num_gpus: int | None = key(
        None,
        "GPUs per machine, one process each; 0: use the CPU; null: one if there is one.",
        least=0,
    )
    num_cpu_processes: int = key(
        1, "Number of processes of a machine without GPUs, connected by gloo.", least=1
    )
    num_machines: int = key(
        1, "Number of machines; start the run on each, with its own machine_rank.", least=1
    )
    machine_rank: int = key(0, "Rank of this machine; rank 0 is the one in dist_url.", least=0)
    dist_url: str = key(
        "auto", "Address where machines meet, tcp://HOST:PORT of machine 0; auto works under SLURM."
    )
    timeout_minutes: int = key(
        30, "Time that processes and machines wait for each other before the run fails.", least=1
    )
    find_unused_parameters: bool = key(
        False, "Allow parameters that take no part in the loss of some or all steps."
    )
    requeue: bool = key(
        False, "Queue the SLURM job again after SIGUSR1 or SIGUSR2; needs resume=auto."
    )


@dataclass(frozen=True)
class EvaluationSettings(Settings, group="evaluation"):
    """`evaluation.*`."""

    per_class: bool = key(False, "Print the tables of all classes, as results.md has them.")
    official: bool = key(
        False, "Also run the datasets' own scripts; it is an error if their metrics differ."
    )
    num_threads: int = key(
        2, "Threads that evaluate while the network runs; 0: evaluate in turn with it.", least=0
    )
    precision: str = key(
        "tf32",
        "Arithmetic of the network; auto: the fastest on this machine that is exact enough.",
        INFERENCE_PRECISIONS,
    )
    scales: list[float] = key(
        [1.0], "Scales of the test image, whose outputs are averaged.", above=0
    )
    flip: bool = key(False, "Average with the output for the mirrored image.")
    save: str | list[str] | None = key(
        None,
        "Predictions to save for the servers of COCO and Cityscapes; null: none.",
        (None, "panoptic", "instances", "semantic"),
    )
    picture_count: int = key(
        4, "Number of first images to draw as image | ground truth | prediction.", least=0
    )
    best_and_worst: int = key(
        3, "Number of best and of worst images to draw with a map of errors.", least=0
    )
    charts: bool = key(True, "Draw bar charts of all classes, and a matrix of confused classes.")

    @property
    def kinds(self) -> list[str]:
        """The kinds of predictions that are saved."""
        if self.save is None:
            return []
        return [self.save] if isinstance(self.save, str) else list(self.save)

    @property
    def test_time_augmentation(self) -> bool:
        """Whether predictions are averaged over several scales, or the mirror image."""
        return self.scales != [1.0] or self.flip


@dataclass(frozen=True)
class BenchmarkSettings(Settings, group="benchmark"):
    """`benchmark.*`."""

    image_size: list[int] = key(
        "${dataset.image_size}", "Height and width of the images in pixels.", least=32
    )
    batch_size: int = key(1, "Number of images that the network processes at once.", least=1)
    num_scenes: int = key(4, "Number of different images, used in turn.", least=1)
    num_things: int = key(
        50, "Instances per image; about six of seven have a center of their own.", least=0
    )
    warmup: int | None = key(
        None, "Iterations before the timed ones; null: 10 on a GPU, 1 on the CPU.", least=0
    )
    iterations: int | None = key(
        None, "Number of timed iterations; null: 50 on a GPU, 5 on the CPU.", least=1
    )
    network_only: bool = key(
        False, "Skip all after the network, as Detectron2's BENCHMARK_NETWORK_SPEED."
    )
    postprocess: str = key(
        "fast", "This project's (fast) or Detectron2's (reference).", ("fast", "reference")
    )
    precision: str = key("fp32", "Arithmetic of the network.", PRECISIONS)
    channels_last: bool = key(False, "Channels-last format of weights and activations.")
    compile: bool | str = key(
        False,
        "Compile the network with `torch.compile`, in this mode or the default one (true).",
        (False, True, "default", "reduce-overhead", "max-autotune"),
    )
    fold_batch_norm: bool = key(
        False, "Fold batch normalization into the convolutions; refused where it is not exact."
    )
    autotune: bool = key(
        False, "Try settings of the network and print the fastest that is exact enough."
    )


@dataclass(frozen=True)
class BrowseSettings(Settings, group="browse"):
    """`browse.*`."""

    count: int = key(8, "Training samples to draw, in the order of training.", least=1)
    num_workers: int = key(0, "Number of loader processes.", least=0)


@dataclass(frozen=True)
class DemoSettings(Settings, group="demo"):
    """`demo.*`."""

    views: str | list[str] | None = key(
        None,
        "Views to draw; null: panoptic, or semantic with task=semantic.",
        (None, "panoptic", "semantic", "instances", "center", "offset"),
    )
    layout: str = key(
        "overlay",
        "One picture per view (overlay), one of the image and all views (side_by_side), or both.",
        ("overlay", "side_by_side", "both"),
    )
    format: str = key("jpg", "Format of pictures; videos are always mp4.", ("jpg", "png"))
    save: str | list[str] | None = key(
        None,
        "Also write files for other programs: COCO's panoptic or instances format, or PNGs of "
        "class ids (masks); json is an older name of panoptic.",
        (None, "panoptic", "instances", "masks", "json"),
    )
    legend: bool = key(True, "Draw the classes below pictures (never in videos).")
    labels: bool = key(True, "Draw the names of segments into the picture.")
    scores: bool = key(False, "Draw the scores of instances, which are products and so are low.")
    opacity: float = key(0.55, "Opacity of the colors over the image.", least=0, most=1)
    maps: str = key(
        "image",
        "Group pixels at the image's size, as mode=eval does, or at the network's, for "
        "photographs much larger or smaller than the test size.",
        ("image", "network"),
    )
    precision: str = key(
        "tf32", "Arithmetic of the network, as in `evaluation.precision`.", INFERENCE_PRECISIONS
    )
    batch_size: int = key(1, "Images of one size in one forward pass.", least=1)
    num_workers: int | None = key(
        None, "Threads that read, and that draw; null: one per core, at most 8.", least=1
    )
    max_frames: int | None = key(None, "Most frames of a video or camera; null: all.", least=1)


@dataclass(frozen=True)
class ExportSettings(Settings, group="export"):
    """`export.*`."""

    format: str = key(
        "onnx",
        "Write model.onnx (onnx), a program of torch.export (pt2), or one compiled by "
        "AOTInductor for machines like this one (aotinductor).",
        ("onnx", "pt2", "aotinductor"),
    )
    postprocess: bool = key(True, "Output labels and scores; false: the maps of the heads.")
    height: int | None = key(
        None, "Height of the input, a multiple of the model's stride; null: any.", least=1
    )
    width: int | None = key(None, "Width of the input, as `height`.", least=1)
    batch: int | None = key(None, "Number of images of the input; null: any.", least=1)
    precision: str = key("fp32", "Arithmetic of the network.", ("fp32", "fp16"))
    opset: int = key(18, "Version of ONNX's operator set.", least=18, most=23)
    check: bool = key(True, "Run the file on several sizes and compare the results with PyTorch's.")


@dataclass(frozen=True)
class DoctorSettings(Settings, group="doctor"):
    """`doctor.*`."""

    sample: int | None = key(
        None, "Images to open in each split, always the same ones; null: all.", least=1
    )
    workers: int | None = key(None, "Processes that open images; null: one per core.", least=1)
    steps: bool = key(True, "Make two training steps and one evaluation step.")


OTHERS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "dataset.augmentation": (str, key("", "", ("crop_first", "reference")).metadata),
    "dataset.ignore_label": (int, key(0, "", least=0, most=255).metadata),
    "dataset.image_format": (str, key("", "", ("RGB", "BGR")).metadata),
    # Of 255 classes, panoptic maps still have 32 bits.
    "dataset.label_divisor": (int, key(0, "", least=2, most=2**23).metadata),
    "dataset.max_bad_samples": (int, key(0, "", least=0).metadata),
    "resume": (bool | str, key(False, "", (True, False, "auto")).metadata),
    "seed": (int | None, key(0, "", least=0).metadata),
}
"""Type and values of keys that belong to no class of settings."""


def check_value(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of a key of type `hint` that has a wrong type or range."""
    choices = metadata["choices"]
    if not (has_type(value, hint) and _is_within(value, metadata["limits"])):
        raise ValueError(f"{name}={as_yaml(value)} must be {_values(hint, metadata)}")
    for each in value if isinstance(value, list) else [value]:
        if choices and each not in choices:
            raise ValueError(f"{name}={as_yaml(each)} is unknown; choose {_listed(choices)}")


def require_value(
    name: str, value: Any, hint: Any, choices: Sequence[Any] = (), **limits: float
) -> None:
    """`check_value` for a key that belongs to no class of settings; see `key`."""
    check_value(name, value, hint, key(None, "", choices, **limits).metadata)


def defaults(group: str) -> dict[str, Any]:
    """The default of each key of a group; interpolations are text."""
    return {each.name: each.metadata["default"] for each in fields(GROUPS[group])}  # type: ignore[arg-type]


def type_of(name: str) -> Any:
    """The type of a dotted key, or None where it is not known."""
    if name in OTHERS:
        return OTHERS[name][0]
    group, _, leaf = name.rpartition(".")
    return get_type_hints(GROUPS[group]).get(leaf) if group in GROUPS else None


def has_type(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type: whole numbers are floats too, booleans are no numbers."""
    if isinstance(hint, UnionType):
        return any(has_type(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(has_type(each, get_args(hint)[0]) for each in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def as_yaml(value: Any) -> str:
    """A plain value as a command line has it: null and true, not None and True."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def describe_type(hint: Any) -> str:
    """A type in words, such as "a whole number or null"."""
    if isinstance(hint, UnionType):
        return " or ".join(describe_type(each) for each in get_args(hint))
    if get_origin(hint) is list:
        return f"a list of {_WORDS[get_args(hint)[0]].partition(' ')[2]}s"
    return _WORDS[get_origin(hint) or hint]


def experiment_name(choice: Mapping[str, Any]) -> str:
    """The name of an experiment by the options of its parts: dataset_task_backbone_head."""
    return "_".join(str(choice.get(group)) for group in EXPERIMENT_PARTS)


def settings_table(group: str) -> list[tuple[str, str, str, str]]:
    """Dotted key, default, values and meaning of each setting of a group, as text."""
    hints, rows = get_type_hints(GROUPS[group]), []
    for each in fields(GROUPS[group]):  # type: ignore[arg-type]
        default = each.metadata["default"]
        shown = default if isinstance(default, str) else json.dumps(default)
        values = _values(hints[each.name], each.metadata)
        rows.append((f"{group}.{each.name}", shown, values, each.metadata["meaning"]))
    return rows


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    NoneType: "null",
    list: "a list",
    dict: "an object",
}
_LIMITS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "least": ("at least", operator.ge),
    "most": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}


def _values(hint: Any, metadata: Mapping[str, Any]) -> str:
    """The values of a key in words, such as "a whole number, at least 1, or null"."""
    if metadata["choices"]:
        return _listed(metadata["choices"]) + " or a list of them" * ("list" in str(hint))
    limits = [f"{_LIMITS[name][0]} {limit:.12g}" for name, limit in metadata["limits"].items()]
    if not limits:
        return describe_type(hint)
    words, null, _ = describe_type(hint).partition(" or null")
    return f"{words}, {' and '.join(limits)}" + (f",{null}" if null else "")


def _listed(choices: Sequence[Any]) -> str:
    return ", ".join(map(as_yaml, choices))


def _is_within(value: Any, limits: Mapping[str, float]) -> bool:
    """Whether a number, or each of a list that is not empty, keeps the limits."""
    if isinstance(value, list):
        return value != [] and all(_is_within(each, limits) for each in value)
    return value is None or all(_LIMITS[name][1](value, limit) for name, limit in limits.items())
