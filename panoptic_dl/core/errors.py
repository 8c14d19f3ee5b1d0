"""Errors whose message tells a user what is wrong and what to do; a run ends with exit code 1."""


class DatasetError(ValueError):
    """Data is missing, half-prepared or damaged."""

    def __str__(self) -> str:
        # A DataLoader's worker process passes on its whole traceback: people need the last of it.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().rpartition(name)[2].strip()


class DemoError(ValueError):
    """An input or a setting of mode=demo that cannot be used."""


class WeightsError(ValueError):
    """A weights file is missing, unreadable, unsafe, or of another architecture."""


class EvaluationError(ValueError):
    """Predictions, ground truth or metrics that cannot be right."""


class UnreadableImageError(DatasetError, EvaluationError):
    """An image or label file is missing, truncated or no image; the message names it and why."""
