"""When a run is saved and evaluated."""

import logging
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from panoptic_dl.loggers.interface import Details

from .checkpoint import RunCheckpoints
from .interrupt import Interrupted, StopRequest
from .run_record import RunRecord

logger = logging.getLogger(__name__)


class SaveOnTheWay(HookBase):
    """A checkpoint every `period` iterations, and `model_final` after the last."""

    def __init__(self, checkpoints: RunCheckpoints, period: int) -> None:
        self.checkpoints, self.period = checkpoints, period

    def before_train(self) -> None:
        if self.trainer.start_iter >= self.trainer.max_iter:  # killed before it was named so
            self.checkpoints.name_final()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            self.checkpoints.save(self.trainer.iter, final=True, must=True)
        elif done % self.period == 0:
            self.checkpoints.save(self.trainer.iter)

    def save_now(self) -> None:
        """Save, or say that the run cannot be resumed from here."""
        self.checkpoints.save(self.trainer.iter, must=True)


class EvaluateOnTheWay(HookBase):
    """An evaluation every `period` iterations and at the end, each of a checkpoint just saved.

    So a signal may end an evaluation at once; the resumed run makes up for it. `model_best` is the
    checkpoint with the best figure so far.
    """

    def __init__(
        self,
        evaluate: Callable[[int], dict[str, Any]],
        checkpoints: RunCheckpoints,
        stop: StopRequest,
        record: RunRecord | None,
        *,
        period: int,
        at_end: bool,
    ) -> None:
        """
        Args:
            evaluate: from the iterations done to results, their figures as `metrics`; {} but on the
                main process.
            record: gets them; of the main process.
            period: 0: at the end only.
        """
        self.evaluate, self.checkpoints, self.stop = evaluate, checkpoints, stop
        self.record, self.period, self.at_end = record, period, at_end

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done >= self.trainer.max_iter:
            return
        evaluated = comm.all_gather(self.checkpoints.was_evaluated())[0]
        if done and self._is_due(done) and not evaluated:
            logger.info("The evaluation after iteration %d had not come to its end", done)
            self._evaluate(done)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._is_due(done):
            self.checkpoints.save(self.trainer.iter)
            self._evaluate(done)

    def after_train(self) -> None:
        if self.at_end and self.trainer.iter >= self.trainer.max_iter:  # all steps were done
            self._evaluate(self.trainer.max_iter)

    def _is_due(self, done: int) -> bool:
        return self.period > 0 and done % self.period == 0

    def _evaluate(self, done: int) -> None:
        results: dict[str, Any] = {}
        try:
            with self.stop.at_once():
                results = self.evaluate(done)
        except Interrupted:
            logger.warning("Stopped in an evaluation; continue with the same command, resume=true")
            raise
        except OSError as error:
            if self.checkpoints.on_error == "stop":
                raise
            logger.error("The results of the evaluation cannot be written: %s", error)
        figures = results.get("metrics", {})
        if self.record is not None:
            self.record.figures(done - 1, figures, results.get("details", Details()))
        self.checkpoints.evaluated(figures)
        comm.synchronize()
