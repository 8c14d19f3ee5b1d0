"""The console of a training run: a progress bar on a terminal, plain lines elsewhere."""

import datetime
import logging
import sys
import time

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm

from panoptic_dl.core import memory

logger = logging.getLogger(__name__)


class ConsoleWriter(EventWriter):
    """Prints losses, learning rate, seconds per iteration, data time, memory and time left.

    Losses and times are medians over the iterations since the last line. On a terminal a bar is
    redrawn in place; metrics.json keeps the metrics of every line.
    """

    def __init__(self, max_iter: int, period: int) -> None:
        self.max_iter, self.period = max_iter, period
        self.bar: tqdm | None = None
        self.seconds: float | None = None
        self.last: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        line = self._line(storage, done)
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(total=self.max_iter, initial=done, unit="it")
            self.bar.n = done
            self.bar.set_postfix_str(line)
        else:
            logger.info("iteration %d/%d  %s", done, self.max_iter, line)

    def _line(self, storage: EventStorage, done: int) -> str:
        histories = storage.histories()
        parts = [
            f"{name.removeprefix('loss_')} {history.median(self.period):.4g}"
            for name, history in histories.items()
            if name.startswith("loss_") or name == "total_loss"
        ]
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        seconds = self._seconds_per_iteration(done)
        if seconds:
            left = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
            parts.append(f"{seconds:.3f} s/iter")
            parts.append(f"data {histories['data_time'].median(self.period):.3f} s")
            parts.append(f"ETA {left}")
        gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() / 2**20
        parts.append(f"memory {gpu or memory.peak_host():.0f} MiB")
        return "  ".join(parts)

    def _seconds_per_iteration(self, done: int) -> float | None:
        now = time.perf_counter()
        if self.last is not None and done > self.last[0]:
            self.seconds = (now - self.last[1]) / (done - self.last[0])
        self.last = (done, now)
        return self.seconds

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
