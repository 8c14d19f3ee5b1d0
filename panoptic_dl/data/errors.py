"""The error for everything that is wrong with data on disk."""


class DatasetError(ValueError):
    """Data is missing, half-prepared or damaged; the message names the file and the way out."""

    def __str__(self) -> str:
        # A DataLoader's worker process passes on its whole traceback: people need the last of it.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().rpartition(name)[2].strip()
