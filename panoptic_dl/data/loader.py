"""Detectron2's data loaders by the name of a dataset."""

import difflib
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch.utils.data
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm

from panoptic_dl.data.errors import DatasetError

GRACE = 25  # seconds between SIGTERM and a worker's end; SLURM kills after 30

Mapper = Callable[[dict[str, Any]], dict[str, Any]]
Batch = list[dict[str, Any]]


def train_loader(
    *,
    dataset: str,
    mapper: Mapper,
    batch_size: int,
    num_workers: int,
    seed: int | None,
    aspect_ratio_grouping: bool = True,
) -> Iterable[Batch]:
    """An endless stream of shuffled batches: epoch after epoch, each image once in each.

    The stream is the same for the same seed, number of workers and number of processes.

    Args:
        dataset: a name in Detectron2's catalogs.
        mapper: makes a sample from a record.
        batch_size: images in a step over all processes together; each takes an equal share.
        num_workers: processes that prepare samples, for each training process.
        seed: decides order and augmentation; None takes a random one.
        aspect_ratio_grouping: keep upright and lying images in separate batches, to pad less.

    Raises:
        ValueError: `batch_size` cannot be shared out evenly.
        DatasetError: the dataset is unknown or empty.
    """
    num_processes = comm.get_world_size()
    if batch_size < 1 or batch_size % num_processes:
        suitable = max(1, -(-batch_size // num_processes)) * num_processes
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {num_processes} processes: "
            f"train.batch_size counts the images of all processes, the next that fits is {suitable}"
        )
    records = _records(dataset)
    # The order is one for all processes; augmentation must differ between them.
    sampler_seed = comm.shared_random_seed() if seed is None else seed
    process_seed = np.random.SeedSequence([sampler_seed, comm.get_rank()]).generate_state(1)[0]
    here = num_workers == 0
    mapper = _SeededMapper(mapper, int(process_seed)) if here else _SteadyMapper(mapper)
    loader: Iterable[Batch] = build_detection_train_loader(
        records,
        mapper=mapper,
        sampler=TrainingSampler(len(records), seed=sampler_seed),
        total_batch_size=batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        seed=int(process_seed),
    )
    return loader


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


class _SeededMapper:
    """A mapper that draws from its own stream of NumPy's random numbers.

    Detectron2's augmentations use NumPy's global generator. Worker processes have theirs to
    themselves and Detectron2 seeds it; without workers, whatever else draws from it would change
    the samples.
    """

    def __init__(self, mapper: Mapper, seed: int) -> None:
        self._mapper = mapper
        self._state = np.random.RandomState(seed).get_state()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            return self._mapper(record)
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002


class _SteadyMapper:
    """A mapper whose worker process outlives Ctrl-C, and SIGTERM for a while.

    Terminals and job managers signal all processes of a run. The training process answers by
    finishing its step, for which it needs its workers.
    """

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self._steady = False

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        if not self._steady and torch.utils.data.get_worker_info() is not None:
            os.setpgid(0, 0)  # Ctrl-C reaches the terminal's own group only
            signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
            self._steady = True
        return self._mapper(record)


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
