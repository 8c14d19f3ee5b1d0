"""What a user may ask of an evaluation; `conf/evaluation/` gives the defaults."""

from dataclasses import dataclass


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
    def looks_once(self) -> bool:
        """Whether the model is evaluated as it is."""
        return self.scales == [1.0] and not self.flip

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
