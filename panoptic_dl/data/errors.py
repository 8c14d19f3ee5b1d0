"""The error for everything that is wrong with data on disk."""


class DatasetError(ValueError):
    """Data is missing, half-prepared or damaged; the message names the file and the way out."""
