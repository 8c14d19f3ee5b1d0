"""Several loggers as one; none of them can stop a run."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from detectron2.utils import comm

from .interface import Details, Figures, Logger, Run

logger = logging.getLogger(__name__)


class Loggers:
    """Tells all loggers in the main process; one that raises is left out from there on."""

    def __init__(self, loggers: Mapping[str, Logger] | None) -> None:
        """
        Args:
            loggers: by names for messages.

        Raises:
            ValueError: one is no logger.
        """
        for name, each in (loggers or {}).items():
            if not isinstance(each, Logger):
                raise ValueError(
                    f"logger.{name} is no logger; choose options of the group, such as "
                    "logger=[tensorboard,wandb], and set their keys: logger.wandb.project=NAME"
                )
        self._loggers = dict(loggers or {}) if comm.is_main_process() else {}
        self._started = False

    def __bool__(self) -> bool:
        """Whether anyone listens, in this process."""
        return bool(self._loggers)

    def start(self, run: Run) -> None:
        self._started = True
        self._tell(lambda each: each.start(run))

    def step(self, iteration: int, figures: Figures) -> None:
        self._tell(lambda each: each.step(iteration, figures))

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        self._tell(lambda each: each.evaluation(iteration, figures, details))

    def measured(self, figures: Figures, pictures: Sequence[Path]) -> None:
        self._tell(lambda each: each.measured(figures, pictures))

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        self._tell(lambda each: each.checkpoint(file, iteration, best))

    def finish(self, status: str, exit_code: int) -> None:
        if self._started:
            self._tell(lambda each: each.finish(status, exit_code))
        self._loggers = {}

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, each in list(self._loggers.items()):
            try:
                what(each)
            except Exception as error:
                del self._loggers[name]
                logger.warning(
                    "logger=%s failed and is left out from here on; the run and metrics.json go "
                    "on (%s: %s)",
                    name,
                    type(error).__name__,
                    str(error)[:500],
                )
                logger.debug("The traceback", exc_info=True)
                with contextlib.suppress(Exception):  # it may still close what is open
                    each.finish("failed", 1)


@contextlib.contextmanager
def ending(
    loggers: Loggers, ended: Callable[[BaseException | None], tuple[str, int]]
) -> Iterator[None]:
    """Tell the loggers how what is inside ended.

    Args:
        ended: from what was raised, or None, to the status and the exit code.
    """
    try:
        yield
    except BaseException as error:
        loggers.finish(*ended(error))
        raise
    loggers.finish(*ended(None))
