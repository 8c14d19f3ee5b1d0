"""The endless stream of training batches, which can be taken up where it was left."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch.utils.data
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.micro_batches import accumulation
from panoptic_dl.data.moved_ahead import moved_ahead
from panoptic_dl.data.sample_order import Draw, SampleOrder
from panoptic_dl.data.samples import BAD, Samples

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
