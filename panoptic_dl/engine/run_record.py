"""What a run writes of its figures: metrics.json, TensorBoard, the console."""

import json
import logging
from pathlib import Path

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from .console import ConsoleWriter
from .whole_files import write_text

logger = logging.getLogger(__name__)

FILE = "metrics.json"


def writers(
    run_dir: Path, *, start: int, iterations: int, log_period: int, on_error: str
) -> list[EventWriter]:
    """The writers of the main process.

    Args:
        start: first iteration to come; what the files hold of it or later ones, from an attempt
            that was ended and goes on from a checkpoint, is dropped.
        on_error: a full disk stops the run | continue.
    """
    forget_from(run_dir / FILE, start)
    # Window 1: the iteration's own values, not medians; a resumed run repeats them.
    files = [
        JSONWriter(str(run_dir / FILE), window_size=1),
        TensorboardXWriter(str(run_dir), window_size=1, purge_step=start if start else None),
    ]
    if on_error == "continue":
        files = [_Enduring(each) for each in files]
    return [ConsoleWriter(iterations, log_period), *files]


def forget_from(file: Path, start: int) -> None:
    """Drop the lines of iterations from `start` on, and a line that was torn."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] < start:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            logger.warning("Dropped a torn line of %s: %s", file, line[:80])
    write_text(file, "".join(line + "\n" for line in kept))


class _Enduring(EventWriter):
    """A writer whose disk may be full: it says so once and tries again the next time."""

    def __init__(self, writer: EventWriter) -> None:
        self.writer, self.said = writer, False

    def write(self) -> None:
        try:
            self.writer.write()
        except OSError as error:
            if not self.said:
                logger.error("Figures cannot be written: %s; training goes on", error)
            self.said = True

    def close(self) -> None:
        try:
            self.writer.close()
        except OSError as error:
            logger.error("Figures were lost at the end: %s", error)
