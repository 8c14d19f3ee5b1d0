"""What a user may ask of an evaluation; `conf/evaluation/` gives the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationSettings:
    """Checked when the evaluation is built, before a network runs for hours."""

    per_class: bool  # print the tables of classes too; results.md has them anyway
    official: bool  # run the official evaluators too, and hold the figures against each other
    num_threads: int  # that decode and compare beside the network; 0: none
    picture_count: int  # first images drawn as image | truth | prediction; 0: none

    def __post_init__(self) -> None:
        for name in ("num_threads", "picture_count"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"evaluation.{name}={value} must be a whole number from 0")
