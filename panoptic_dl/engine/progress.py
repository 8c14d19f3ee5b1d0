"""How far a long loop over images is: a bar on a terminal, a line now and then elsewhere."""

import datetime
import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

PERIOD = 10.0  # seconds between lines


class Progress:
    """Counts images; shows images a second and the time left."""

    def __init__(self, total: int | None, *, what: str, shown: bool = True) -> None:
        """
        Args:
            total: images to come, of this process; None: nobody knows.
            what: what is done to them, such as "evaluated".
            shown: False counts in silence, for all processes but one.
        """
        self.total, self.what, self.shown = total, what, shown
        self.done = 0
        self.started = self.spoken = time.perf_counter()
        self.bar: tqdm | None = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=what, unit=" images", dynamic_ncols=True)

    def add(self, number: int) -> None:
        """Count images that are done."""
        self.done += number
        if self.bar is not None:
            self.bar.update(number)
            return
        now = time.perf_counter()
        if self.shown and (now - self.spoken >= PERIOD or self.done == self.total):
            self.spoken = now
            logger.info("%s", self.line(now - self.started))

    def line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        rate = self.done / max(seconds, 1e-9)
        if self.total is None:
            return f"{self.what} {self.done} images  {rate:.3g} images/s"
        left = datetime.timedelta(seconds=round((self.total - self.done) / max(rate, 1e-9)))
        return f"{self.what} {self.done}/{self.total} images  {rate:.3g} images/s  ETA {left}"

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
