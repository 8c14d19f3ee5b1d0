"""What is wrong with a weights file, in words for the person who named it."""


class WeightsError(ValueError):
    """A weights file is missing, unreadable, unsafe, or of another architecture."""
