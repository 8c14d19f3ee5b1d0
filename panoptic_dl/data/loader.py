"""Detectron2's data loaders by the name of a dataset.

The endless stream of training batches, which can be taken up where it was left.

How a global batch is kept on fewer GPUs: several forward passes for one step.

The samples of training, by draw; what becomes of an image that cannot be read.
"""

import difflib
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch.utils.data
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.data.prefetch import moved_ahead
from panoptic_dl.data.sample_order import Draw, SampleOrder, generator_of, randomness_of


def accumulation(
    batch_size: int, num_processes: int, images_per_gpu: int | None, accumulate: int | None
) -> int:
    """Return how many forward passes each process makes for one optimizer step.

    batch_size = num_processes * accumulation * images of one forward pass.

    Args:
        batch_size: images of one step, over all processes: the recipe's, on any hardware.
        num_processes: processes that train together.
        images_per_gpu: most images of one forward pass; None: as many as there are.
        accumulate: the number itself, in place of the one that follows from `images_per_gpu`.

    Raises:
        ValueError: both are given; a number is none; the batch cannot be shared evenly.
    """
    if images_per_gpu is not None and accumulate is not None:
        raise ValueError(
            f"train.images_per_gpu={images_per_gpu} and train.accumulate={accumulate} say the same "
            "thing twice: set one of them to null"
        )
    for name, value in (("images_per_gpu", images_per_gpu), ("accumulate", accumulate)):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"train.{name}={value} must be a whole number, at least 1, or null")
    if batch_size < 1 or batch_size % num_processes:
        suitable = max(1, -(-batch_size // num_processes)) * num_processes
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {num_processes} processes: "
            f"train.batch_size counts the images of all processes, the next that fits is {suitable}"
        )
    share = batch_size // num_processes
    if accumulate is not None:
        if share % accumulate:
            raise ValueError(
                f"the {share} images of a process (train.batch_size={batch_size}, {num_processes} "
                f"processes) cannot be taken in train.accumulate={accumulate} equal parts: choose "
                f"{_listed(share)}"
            )
        return accumulate
    if images_per_gpu is None or images_per_gpu >= share:
        return 1
    if share % images_per_gpu:
        raise ValueError(
            f"the {share} images of a process (train.batch_size={batch_size}, {num_processes} "
            f"processes) cannot be taken train.images_per_gpu={images_per_gpu} at a time: choose "
            f"{_listed(share)}"
        )
    return share // images_per_gpu


def _listed(number: int) -> str:
    """All divisors in words."""
    divisors = [str(d) for d in range(1, number + 1) if number % d == 0]
    return " or ".join([", ".join(divisors[:-1]), divisors[-1]]) if divisors[1:] else divisors[0]


BAD = "bad_samples"  # entry of a sample: what it stands in for, {file name of the image: error}
ATTEMPTS = 100  # at finding a readable image, before the dataset is given up


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """`samples[index, position]`: the mapper's sample, drawn with the randomness of the position.

    Args:
        records: Detectron2's dataset dicts.
        mapper: makes a sample from a record.
        seed: of the run.
        max_bad: 0: an image that cannot be read is an error. Else another stands in, which seed and
            position choose, and `BAD` in the sample says so; more such images are an error.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        *,
        max_bad: int = 0,
    ) -> None:
        self.records, self.mapper, self.seed, self.max_bad = records, mapper, seed, max_bad

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, position = draw
        bad: dict[str, str] = {}
        choice = generator_of(self.seed, position)
        for attempt in range(ATTEMPTS):
            record = self.records[index]
            try:
                with randomness_of(self.seed, position):
                    sample = self.mapper(record)
                return sample | {BAD: bad} if bad else sample
            except DatasetError as error:
                bad[str(record.get("file_name", index))] = str(error)
                if len(bad) > self.max_bad or attempt == ATTEMPTS - 1:
                    raise
                index = int(choice.randint(len(self.records)))
        raise AssertionError("unreachable")


GRACE = 25  # seconds between SIGTERM and a worker's end; SLURM kills after 30

Batch = list[dict[str, Any]]
Step = list[list[Draw]]  # the groups of one optimizer step, over all processes


class TrainLoader:
    """Micro-batches of this process: shuffled epochs, each image once in each, without end.

    One step of training takes `accumulate` of them. Of a step's groups, number `a * processes +
    rank` is micro-batch `a` of process `rank`: the images of a step are the same for all ways of
    sharing a batch out in groups of one size.
    """

    def __init__(
        self,
        *,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        batch_size: int,
        num_workers: int,
        seed: int | None,
        accumulate: int | None = None,
        images_per_gpu: int | None = None,
        aspect_ratio_grouping: bool = True,
        overfit_batches: int = 0,
        max_bad_samples: int = 0,
    ) -> None:
        """
        Args:
            records: Detectron2's dataset dicts.
            mapper: makes a sample from a record.
            batch_size: images in a step over all processes and micro-batches together.
            num_workers: loader processes for each training process.
            seed: decides order and augmentation; None takes a random one, the same everywhere.
            accumulate, images_per_gpu: give the number of micro-batches of a step in each process;
                see `accumulation`.
            aspect_ratio_grouping: keep upright and lying images in separate micro-batches, to pad
                less.
            overfit_batches: N repeats the first N batches for ever, as they were augmented; 0 does
                not.
            max_bad_samples: see `Samples`.

        Raises:
            ValueError: `batch_size` cannot be shared out evenly, or a number that cannot be.
        """
        for name, number in (
            ("train.overfit_batches", overfit_batches),
            ("dataset.max_bad_samples", max_bad_samples),
        ):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"{name}={number} must be a whole number, at least 0")
        self._rank, self._num_processes = comm.get_rank(), comm.get_world_size()
        self.accumulate = accumulation(batch_size, self._num_processes, images_per_gpu, accumulate)
        self._group_size = batch_size // self._num_processes // self.accumulate
        self.max_bad_samples = max_bad_samples
        self.bad_samples: dict[str, str] = {}  # met since the trainer last asked
        self.seed = comm.shared_random_seed() if seed is None else seed
        self._seed_is_fixed = seed is not None
        self._mapper, self._num_images = mapper, len(records)
        self._num_workers, self._overfit_batches = num_workers, overfit_batches
        self._shapes = _shapes(records) if aspect_ratio_grouping else None
        self._dataset = DatasetFromList(list(records), copy=False)  # shared by the workers
        self.device: torch.device | None = None  # where batches are moved, if it is a GPU
        self._steps_done = 0
        self._order = self._new_order()

    def _new_order(self) -> SampleOrder:
        return SampleOrder(self._num_images, self._group_size, self.seed, self._shapes)

    def _step(self, order: SampleOrder) -> Step:
        return [next(order) for _ in range(self._num_processes * self.accumulate)]

    def __iter__(self) -> Iterator[Batch]:
        """Go on after the last step that was taken, or that was loaded."""
        on_gpu = self.device is not None and self.device.type == "cuda"
        loader = torch.utils.data.DataLoader(
            Samples(self._dataset, self._mapper, self.seed, max_bad=self.max_bad_samples),
            batch_sampler=_OfProcess(self._coming_steps(), self._rank, self._num_processes),
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=_steady if self._num_workers else None,
            # The default in a process that was spawned is to spawn: tens of seconds of imports.
            multiprocessing_context="fork" if self._num_workers else None,
            generator=torch.Generator(),  # its own: the run's random numbers are left alone
            pin_memory=on_gpu,
        )
        batches: Iterator[Batch] = iter(loader)
        if self.device is not None and on_gpu:
            batches = moved_ahead(batches, self.device)
        while True:
            for part in range(self.accumulate):
                batch = _next(batches)
                if part == self.accumulate - 1:  # `state_dict` speaks of whole steps
                    self._advance()
                for sample in batch:
                    self.bad_samples |= sample.pop(BAD, {})
                yield batch

    def _coming_steps(self) -> Iterator[Step]:
        if self._overfit_batches:
            order = self._new_order()
            first = [self._step(order) for _ in range(self._overfit_batches)]
            return itertools.islice(itertools.cycle(first), self._steps_done % len(first), None)
        order = self._new_order()  # workers are given batches ahead of those that are taken
        order.load_state_dict(self._order.state_dict())
        return iter(lambda: self._step(order), None)

    def _advance(self) -> None:
        self._steps_done += 1
        if not self._overfit_batches:
            self._step(self._order)

    def take_bad_samples(self) -> dict[str, str]:
        """Images that others stood in for since the last call: {file: error}."""
        bad, self.bad_samples = self.bad_samples, {}
        return bad

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, for all processes the same; plain values."""
        return {"seed": self.seed, "steps": self._steps_done, "order": self._order.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with any number of processes; before `__iter__`.

        Raises:
            ValueError: it is of another seed or dataset.
        """
        if self._seed_is_fixed and state["seed"] != self.seed:
            raise ValueError(
                f"seed={self.seed}, but the run was started with seed={state['seed']}: resume with "
                "that"
            )
        self.seed, self._steps_done = state["seed"], state["steps"]
        self._order = self._new_order()
        self._order.load_state_dict(state["order"])


class _OfProcess:
    """A batch sampler: of each step's groups those of one process."""

    def __init__(self, steps: Iterator[Step], rank: int, num_processes: int) -> None:
        self._steps, self._rank, self._num_processes = steps, rank, num_processes

    def __iter__(self) -> Iterator[list[Draw]]:
        for groups in self._steps:
            yield from groups[self._rank :: self._num_processes]


def _shapes(records: Sequence[dict[str, Any]]) -> list[int]:
    """For each image 1: lying, or 0; one that cannot be read counts among the most."""
    known = [_is_lying(record) for record in records]
    mostly = known.count(True) >= known.count(False)
    return [int(mostly if lying is None else lying) for lying in known]


def _is_lying(record: dict[str, Any]) -> bool | None:
    """Whether an image is wider than high, by its record, or by the first bytes of its file."""
    if "width" in record and "height" in record:
        return bool(record["width"] > record["height"])
    try:
        with Image.open(record["file_name"]) as image:
            return image.width > image.height
    except (OSError, SyntaxError):  # the mapper will say what is wrong with it, when it comes
        return None


def _next(batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DatasetError(
            f"a loader process died: {error}. Mostly memory ran out: take a smaller "
            "train.num_workers, and go on from the last checkpoint with resume=true"
        ) from error


def _steady(worker: int) -> None:
    """Let a worker outlive Ctrl-C and the signals of job managers, SIGTERM for a while.

    Terminals and job managers signal all processes of a run. The training process answers by
    finishing its step, for which it needs its workers.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches the terminal's own group only
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(number: int, frame: FrameType | None) -> None:
    signal.alarm(GRACE)


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
