"""The numbers of a training run, checked before anything is built.

What a user may ask of an evaluation; `conf/evaluation/` gives the defaults.
"""

from dataclasses import dataclass, fields

LOWEST = {"eval_period": 0, "num_workers": 0, "overfit_batches": 0, "max_nonfinite_skips": 0}


class _Numbers:
    """Raises ValueError for a whole number that is none, or too small."""

    group: str

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value, lowest = getattr(self, field.name), LOWEST.get(field.name, 1)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if field.type is int and (not whole or value < lowest):
                raise ValueError(
                    f"{self.group}.{field.name}={value} must be a whole number, at least {lowest}"
                )


@dataclass(frozen=True)
class TrainSettings(_Numbers):
    """`conf/train/` and the recipe give them."""

    iterations: int
    batch_size: int  # images of one iteration, over all processes and micro-batches
    images_per_gpu: int | None  # most in one micro-batch; None: all of a process's share
    accumulate: int | None  # micro-batches of an iteration; None: as images_per_gpu needs
    auto_scale_lr: bool  # the learning rate with the batch
    num_workers: int  # loader processes per process
    precision: str  # fp32 | tf32 | bf16 | fp16
    channels_last: bool
    compile: bool
    activation_checkpointing: bool  # of the backbone's blocks
    clip_norm: float | None  # largest norm of the gradient; None: any
    ema: float | None  # decay of the weights' moving average; None: no average
    on_nonfinite: str  # stop | skip
    max_nonfinite_skips: int  # steps that a run may leave out
    overfit_batches: int  # train on the first N batches again and again; 0: on all
    fast_dev_run: bool  # a few iterations of everything; see rehearsal
    log_period: int  # iterations between lines
    eval_period: int  # iterations between evaluations; 0: only at the end
    eval_at_end: bool

    group = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"train.clip_norm={self.clip_norm} must be above 0, or null")


@dataclass(frozen=True)
class CheckpointSettings(_Numbers):
    """`conf/checkpoint/` gives them."""

    period: int  # iterations between checkpoints
    kept: int  # numbered ones
    best: str | None  # figure that model_best is best in; None: the first
    on_error: str  # stop | continue

    group = "checkpoint"


@dataclass(frozen=True)
class EvaluationSettings:
    """Checked when the evaluation is built, before a network runs for hours."""

    per_class: bool  # print the tables of classes too; results.md has them anyway
    official: bool  # run the official evaluators too, and hold the figures against each other
    num_threads: int  # that decode and compare beside the network; 0: none
    scales: list[float]  # of the image, averaged; [1.0] is the model as it is
    flip: bool  # average with the mirror image
    save: str | list[str] | None  # kinds of predictions written to files, see prediction_files
    picture_count: int  # first images drawn as image | truth | prediction; 0: none
    best_and_worst: int  # best, and worst, images drawn with their errors; 0: none
    charts: bool  # draw figures by class and confusions

    @property
    def kinds(self) -> list[str]:
        """What is saved."""
        if self.save is None:
            return []
        return [self.save] if isinstance(self.save, str) else list(self.save)

    @property
    def test_time_augmentation(self) -> bool:
        """Whether predictions are averaged over several scales, or the mirror image."""
        return self.scales != [1.0] or self.flip

    def __post_init__(self) -> None:
        if (
            not isinstance(self.scales, list)
            or not self.scales
            or not all(map(_is_positive, self.scales))
        ):
            raise ValueError(f"evaluation.scales={self.scales} must be a list of positive numbers")
        if not (self.save is None or isinstance(self.save, (str, list))):
            raise ValueError(
                f"evaluation.save={self.save} must be panoptic, instances, semantic, or a list of "
                "them"
            )
        for name in ("num_threads", "picture_count", "best_and_worst"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"evaluation.{name}={value} must be a whole number from 0")


def _is_positive(scale: object) -> bool:
    return isinstance(scale, (int, float)) and scale > 0
