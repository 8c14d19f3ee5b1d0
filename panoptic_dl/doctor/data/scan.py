"""Look at many images in several processes, with bounded memory."""

import contextlib
import ctypes
import itertools
import random
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.engine.progress import Progress

from .look import Question, look_at
from .report import ImageReport
from .split import Split

CHUNK = 8  # images that a process is given at a time
AHEAD = 3  # such portions for each process that wait
PR_SET_PDEATHSIG = 1


def scan(
    split: Split, *, sample: int | None, workers: int, tick: Callable[[], None]
) -> list[ImageReport]:
    """Look at the images of a split, in its order.

    Args:
        sample: so many, always the same ones; None: all.
        workers: processes; 1 works in this one.
        tick: is called now and then.

    Raises:
        DatasetError: a process was killed.
    """
    records = split.records
    chosen: Sequence[int] = range(len(records))
    if sample is not None and sample < len(records):
        chosen = sorted(random.Random(0).sample(chosen, sample))
    sizes, cityscapes = split.listed_sizes, split.is_cityscapes
    num_classes, ignored = len(split.class_names), split.ignore_label
    questions = (
        Question(
            record=records[index],
            size=sizes.get(records[index].get("image_id")),
            num_classes=num_classes,
            ignore_label=ignored,
            is_cityscapes=cityscapes,
        )
        for index in chosen
    )
    progress = Progress(len(chosen), what=f"{split.title}: looked at")
    reports = []
    try:
        for part in _answers(questions, min(workers, -(-len(chosen) // CHUNK))):
            reports += part
            progress.add(len(part))
            tick()
    except BrokenProcessPool as error:
        raise DatasetError(
            "a process that looks at images was killed, mostly because memory ran out\n"
            "remedy: fewer of them, doctor.workers=1"
        ) from error
    finally:
        progress.close()
    return reports


def _answers(questions: Iterable[Question], workers: int) -> Iterator[list[ImageReport]]:
    chunks = _chunks(iter(questions))
    if workers <= 1:
        yield from map(_look_at_all, chunks)
        return
    # Forked, and before any GPU is used: a new interpreter takes seconds to import everything.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=_begin)
    try:
        waiting = deque(
            pool.submit(_look_at_all, chunk) for chunk in itertools.islice(chunks, AHEAD * workers)
        )
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(
                pool.submit(_look_at_all, chunk) for chunk in itertools.islice(chunks, 1)
            )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(questions: Iterator[Question]) -> Iterator[list[Question]]:
    while chunk := list(itertools.islice(questions, CHUNK)):
        yield chunk


def _look_at_all(questions: list[Question]) -> list[ImageReport]:
    return [look_at(question) for question in questions]


def _begin() -> None:
    """In each process: Ctrl-C is answered by the one that asks; when that is killed, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
