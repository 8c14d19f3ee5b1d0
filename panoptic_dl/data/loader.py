"""Batches of samples: an endless, resumable stream for training, each image once for evaluation."""

import ctypes
import difflib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.utils.data
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils._pytree import tree_map_only

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.headers import check_records, fingerprint
from panoptic_dl.core.images import read_size
from panoptic_dl.data.mapper import Mapper
from panoptic_dl.data.sample_order import Draw, SampleOrder, generator_of, randomness_of

Batch = list[dict[str, Any]]
Step = list[list[Draw]]  # the groups of one optimizer step, over all processes

SECONDS_FOR_HEADERS = 20.0  # of training images; a bad one that is met later loses no training
BAD = "bad_samples"  # entry of a sample: the images that it replaces, {file name: error}
ALIGNED = 64  # bytes: where a tensor begins in shared memory
ATTEMPTS = 100  # at finding a readable image, before the dataset is given up
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, see malloc.h
GRACE = 25  # seconds between SIGTERM and a worker's end; SLURM kills after 30


def train_loader(*, dataset: str, **options: Any) -> "TrainLoader":
    """The training batches of a dataset, by its name; see `TrainLoader` for the other arguments.

    Raises:
        ValueError: `batch_size` cannot be shared out evenly.
        DatasetError: the dataset is unknown or empty; more than `max_bad_samples` of its images
            have a fault that `check_records` has found in `SECONDS_FOR_HEADERS`.
    """
    records = _records(dataset)
    loader = TrainLoader(records=records, **options)
    check_records(dataset, records, seconds=SECONDS_FOR_HEADERS, most_bad=loader.max_bad_samples)
    return loader


class PrefetchedToGpu:
    """The batches of a loader, moved to a GPU while the one before is used."""

    def __init__(self, loader: "torch.utils.data.DataLoader[Batch]", device: torch.device) -> None:
        self._loader, self._device = loader, device

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self._loader.pin_memory = True
        return _prefetch_to_gpu(iter(self._loader), self._device)


def test_loader(
    *, dataset: str, mapper: Mapper, num_workers: int
) -> "torch.utils.data.DataLoader[Batch]":
    """Every image once, in the order of the dataset, one at a time; each process gets its share.

    Raises:
        DatasetError: the dataset is unknown or empty.
    """
    records = _records(dataset)
    return build_detection_test_loader(
        records, mapper=mapper, sampler=InferenceSampler(len(records)), num_workers=num_workers
    )


# Not a test, whatever pytest thinks of its name.
test_loader.__test__ = False  # type: ignore[attr-defined]


def count_images(*, dataset: str) -> int:
    """The number of images of a dataset, by its name.

    Raises:
        DatasetError: the dataset is unknown or empty.
    """
    known = MetadataCatalog.get(dataset).get("num_images") if dataset in DatasetCatalog else None
    return known or len(_records(dataset))


def _records(dataset: str) -> Sequence[dict[str, Any]]:
    if dataset not in DatasetCatalog:
        near = difflib.get_close_matches(dataset, DatasetCatalog.list(), n=3)
        raise DatasetError(
            f"no dataset is registered as {dataset!r}; near: {', '.join(near) or 'none'}. "
            "Functions of panoptic_dl.datasets register and return names"
        )
    records: Sequence[dict[str, Any]] = DatasetCatalog.get(dataset)
    if not records:
        raise DatasetError(f"dataset {dataset!r} has no images")
    return records


class TrainLoader:
    """Micro-batches of this process: shuffled epochs, each image once in each, without end.

    One step of training takes `accumulate` of them. Of a step's groups, number `a * processes +
    rank` is micro-batch `a` of process `rank`: the images of a step are the same for all ways of
    sharing a batch out in groups of one size.

    Args:
        records: Detectron2's dataset dicts.
        mapper: makes a sample from a record.
        batch_size: images in a step over all processes and micro-batches together.
        num_workers: loader processes for each training process.
        seed: decides order and augmentation; None takes a random one, the same everywhere.
        accumulate, images_per_gpu: give the number of micro-batches of a step in each process;
            see `accumulation`.
        aspect_ratio_grouping: keep portrait and landscape images in separate micro-batches, to
            pad less.
        overfit_batches: N repeats the first N batches forever, as they were augmented; 0 does not.
        max_bad_samples: 0: an image that cannot be read is an error. Else another one replaces it,
            which seed and position choose; more such images within one sample are an error.

    Attributes:
        device: where batches are moved while the one before is used, if it is a GPU.
        other_records: the state that was loaded is of other images.

    Raises:
        ValueError: `batch_size` cannot be shared out evenly.
    """

    def __init__(
        self,
        *,
        records: Sequence[dict[str, Any]],
        mapper: Mapper,
        batch_size: int,
        num_workers: int,
        seed: int | None,
        accumulate: int | None = None,
        images_per_gpu: int | None = None,
        aspect_ratio_grouping: bool = True,
        overfit_batches: int = 0,
        max_bad_samples: int = 0,
    ) -> None:
        self._rank, self._num_processes = comm.get_rank(), comm.get_world_size()
        self.accumulate = accumulation(batch_size, self._num_processes, images_per_gpu, accumulate)
        self._group_size = batch_size // self._num_processes // self.accumulate
        self.max_bad_samples = max_bad_samples
        self.bad_samples: dict[str, str] = {}  # met since the trainer last asked
        self.seed = comm.shared_random_seed() if seed is None else seed
        self._seed_is_fixed = seed is not None
        self._mapper, self._num_images = mapper, len(records)
        self._num_workers, self._overfit_batches = num_workers, overfit_batches
        lying: list[bool | None] = []
        note = (lambda record: lying.append(_is_lying(record))) if aspect_ratio_grouping else None
        self._fingerprint = fingerprint(records, note)
        self._shapes = _shapes(lying) if aspect_ratio_grouping else None
        self.other_records = False
        self._dataset: Sequence[dict[str, Any]] = records  # shared by the workers, as it is or so:
        if isinstance(records, list):
            self._dataset = DatasetFromList(records, copy=False)
        if hasattr(mapper, "records"):
            mapper.records = self._dataset
        self.device: torch.device | None = None
        self._steps_done = 0
        self._order = self._new_order()

    def _new_order(self) -> SampleOrder:
        return SampleOrder(self._num_images, self._group_size, self.seed, self._shapes)

    def _next_step(self, order: SampleOrder) -> Step:
        return [next(order) for _ in range(self._num_processes * self.accumulate)]

    def __iter__(self) -> Iterator[Batch]:
        """Go on after the last step that was taken, or that was loaded."""
        gpu = self.device if self.device is not None and self.device.type == "cuda" else None
        own = slice(self._rank, None, self._num_processes)
        ending = multiprocessing.RawValue("b", 0)  # 1: nobody needs the workers
        loader = torch.utils.data.DataLoader(
            _Samples(self._dataset, self._mapper, self.seed, self.max_bad_samples),
            batch_sampler=(group for step in self._coming_steps() for group in step[own]),
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=partial(_begin_worker, ending) if self._num_workers else None,
            # The default in a process that was spawned is to spawn: tens of seconds of imports.
            multiprocessing_context="fork" if self._num_workers else None,
            generator=torch.Generator(),  # its own: the run's random numbers are left alone
            pin_memory=gpu is not None,
        )
        stream: Any = iter(loader)
        batches: Iterator[Batch] = stream if gpu is None else _prefetch_to_gpu(stream, gpu)
        try:
            for part in itertools.cycle(range(self.accumulate)):
                batch = next(batches)
                if part == self.accumulate - 1:  # the state counts whole steps
                    self._steps_done += 1
                    if not self._overfit_batches:
                        self._next_step(self._order)
                for sample in batch:
                    self.bad_samples |= sample.pop(BAD, {})
                yield batch
        finally:
            # At once: an error's traceback would keep them, and the program wait for them.
            ending.value = 1
            for worker in getattr(stream, "_workers", ()):
                worker.terminate()

    def _coming_steps(self) -> Iterator[Step]:
        order = self._new_order()  # runs ahead: workers are given batches before they are taken
        if self._overfit_batches:
            first = [self._next_step(order) for _ in range(self._overfit_batches)]
            return itertools.islice(itertools.cycle(first), self._steps_done % len(first), None)
        order.load_state_dict(self._order.state_dict())
        return iter(lambda: self._next_step(order), None)

    def take_bad_samples(self) -> dict[str, str]:
        """Images that were replaced since the last call: {file: error}."""
        bad, self.bad_samples = self.bad_samples, {}
        return bad

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, for all processes the same; plain values."""
        state = {"seed": self.seed, "steps": self._steps_done, "records": self._fingerprint}
        return state | {"order": self._order.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with any number of processes; before `__iter__`.

        Raises:
            ValueError: it is of another seed, or of another number of images.
        """
        if self._seed_is_fixed and state["seed"] != self.seed:
            raise ValueError(
                f"seed={self.seed}, but the run was started with seed={state['seed']}: resume with "
                "that"
            )
        self.seed, self._steps_done = state["seed"], state["steps"]
        self._order = self._new_order()
        self._order.load_state_dict(state["order"])
        # Earlier versions kept the number of images alone.
        self.other_records = state.get("records") not in (None, self._fingerprint)


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
        ValueError: both are given, or the batch cannot be shared evenly.
    """
    if images_per_gpu is not None and accumulate is not None:
        raise ValueError(
            f"train.images_per_gpu={images_per_gpu} and train.accumulate={accumulate} say the same "
            "thing twice: set one of them to null"
        )
    if batch_size < 1 or batch_size % num_processes:
        suitable = max(1, -(-batch_size // num_processes)) * num_processes
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {num_processes} processes: "
            f"train.batch_size counts the images of all processes, the next that fits is {suitable}"
        )
    share = batch_size // num_processes
    divisor = accumulate or min(images_per_gpu or share, share)
    if share % divisor:
        given = f"images_per_gpu={images_per_gpu}" if images_per_gpu else f"accumulate={accumulate}"
        divisors = ", ".join(str(d) for d in range(1, share + 1) if share % d == 0)
        raise ValueError(
            f"train.{given} does not divide the {share} images of a process "
            f"(train.batch_size={batch_size}, {num_processes} processes): choose one of {divisors}"
        )
    return accumulate or share // divisor


class _Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """`samples[index, position]`: the mapper's sample, drawn with the randomness of the position.

    If an image cannot be read and `max_bad` is not 0, another one replaces it, which seed and
    position choose; the entry `BAD` of the sample names the unreadable ones.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], mapper: Mapper, seed: int, max_bad: int
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
                if torch.utils.data.get_worker_info() is not None:
                    sample = _in_one_piece(sample)
                return sample | {BAD: bad} if bad else sample
            except DatasetError as error:
                bad[str(record.get("file_name", index))] = str(error)
                if len(bad) > self.max_bad or attempt == ATTEMPTS - 1:
                    raise
                index = int(choice.randint(len(self.records)))
        raise AssertionError


def _in_one_piece(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample whose tensors lie in one piece of shared memory.

    Each piece takes a file descriptor of the training process, which may have 1,024.
    """
    tensors = {key: value for key, value in sample.items() if isinstance(value, Tensor)}
    sizes = [-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in tensors.values()]
    memory = torch.UntypedStorage._new_shared(sum(sizes))
    pieces = torch.empty(0, dtype=torch.uint8).set_(memory).split(sizes)  # type: ignore[call-overload]
    for (key, tensor), piece in zip(tensors.items(), pieces, strict=True):
        place = piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensors[key] = place.copy_(tensor)
    return sample | tensors


def _shapes(lying: Sequence[bool | None]) -> list[int]:
    """For each image 1: landscape, or 0; one that cannot be read counts among the most."""
    mostly = lying.count(True) >= lying.count(False)
    return [int(mostly if each is None else each) for each in lying]


def _is_lying(record: dict[str, Any]) -> bool | None:
    try:
        if "width" in record and "height" in record:
            return bool(record["width"] > record["height"])
        height, width = read_size(record["file_name"])
        return width > height
    except DatasetError:  # the mapper will raise it again, when the image is drawn
        return None


def _begin_worker(ending: Any, worker: int) -> None:
    keep_freed_memory()
    _ignore_signals(ending)


def keep_freed_memory() -> None:
    """Let this process keep what it frees: the system zeroes each page of new memory.

    That took up to a quarter of the time of a sample. Done where the C library is glibc.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, 512 << 20)
        library.mallopt(MMAP_THRESHOLD, 32 << 20)


def _ignore_signals(ending: Any) -> None:
    """Let a worker outlive Ctrl-C and the signals of job managers, SIGTERM for a while.

    They go to all processes of a run, and the training process needs its workers to finish its
    step. `ending` is shared with it, and 1 when SIGTERM comes from that.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches the terminal's own group only
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Code 0: PyTorch takes any other end of a worker for an error.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ending.value else signal.alarm(GRACE))


def _prefetch_to_gpu(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, their tensors on `device`, each copied one batch ahead of its turn.

    The copies run on a stream of their own, from pinned memory, so that neither the host nor the
    GPU waits for them.
    """
    copies = torch.cuda.Stream(device)

    def start(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copies):
            moved = tree_map_only(Tensor, lambda t: t.to(device, non_blocking=True), batch)
            return moved, copies.record_event()

    def finish(started: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = started
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)  # of this batch, not of the one that is being copied
        # The allocator must not give the memory away before this stream is done with it.
        tree_map_only(Tensor, lambda tensor: tensor.record_stream(current), batch)
        return batch

    return _prefetch(batches, start, finish)


def _prefetch(
    batches: Iterator[Batch], start: Callable[[Batch], Any], finish: Callable[[Any], Batch]
) -> Iterator[Batch]:
    """`finish(start(batch))` for each batch, the next one started before this one is yielded.

    An error of `batches` is raised when the batch that it is about is due.
    """
    started: list[Any] = []
    try:
        for batch in batches:
            started.append(start(batch))
            if len(started) > 1:
                yield finish(started.pop(0))
    except Exception:  # of a batch that is not due yet
        yield from map(finish, started)
        raise
    yield from map(finish, started)
