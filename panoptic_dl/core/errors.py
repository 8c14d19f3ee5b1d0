"""The error for everything that is wrong with data on disk.

The error for what a user of the demo can cure.

What is wrong with a weights file, in words for the person who named it.

Of evaluation.
"""


class DatasetError(ValueError):
    """Data is missing, half-prepared or damaged; the message names the file and the way out."""

    def __str__(self) -> str:
        # A DataLoader's worker process passes on its whole traceback: people need the last of it.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().rpartition(name)[2].strip()


class DemoError(ValueError):
    """An input that cannot be used, or a setting that cannot be; names it and the way out."""


class WeightsError(ValueError):
    """A weights file is missing, unreadable, unsafe, or of another architecture."""


class EvaluationError(ValueError):
    """Predictions, truth or figures that cannot be right; the message names what does not fit."""


class UnreadableImageError(DatasetError, EvaluationError):
    """An image or label file is missing, truncated or no image; the message names it and why."""
