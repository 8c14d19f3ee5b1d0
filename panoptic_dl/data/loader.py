"""Detectron2's data loaders by the name of a dataset."""

import difflib
from collections.abc import Callable
from typing import Any

import torch.utils.data
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.data.samplers import InferenceSampler

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.train_loader import Batch, TrainLoader

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def train_loader(
    *, dataset: str, mapper: Mapper, batch_size: int, num_workers: int, **options: Any
) -> TrainLoader:
    """The batches of a dataset without end; see `TrainLoader`, which takes the same arguments.

    Raises:
        ValueError: `batch_size` cannot be shared out evenly.
        DatasetError: the dataset is unknown or empty.
    """
    return TrainLoader(
        records=_records(dataset),
        mapper=mapper,
        batch_size=batch_size,
        num_workers=num_workers,
        **options,
    )


def test_loader(
    *, dataset: str, mapper: Mapper, num_workers: int
) -> "torch.utils.data.DataLoader[Batch]":
    """Every image once, in the order of the dataset, one at a time; each process gets its share.

    Raises:
        DatasetError: the dataset is unknown or empty.
    """
    records = _records(dataset)
    loader: torch.utils.data.DataLoader[Batch] = build_detection_test_loader(
        records, mapper=mapper, sampler=InferenceSampler(len(records)), num_workers=num_workers
    )
    return loader


# Not a test, whatever pytest thinks of its name.
test_loader.__test__ = False  # type: ignore[attr-defined]


def _records(dataset: str) -> list[dict[str, Any]]:
    if dataset not in DatasetCatalog:
        near = difflib.get_close_matches(dataset, DatasetCatalog.list(), n=3)
        raise DatasetError(
            f"no dataset is registered as {dataset!r}; near: {', '.join(near) or 'none'}. "
            "Functions of panoptic_dl.data.catalog register and return names"
        )
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
    if not records:
        raise DatasetError(f"dataset {dataset!r} has no images")
    return records
