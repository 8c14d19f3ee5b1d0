"""Logger of TensorBoard events, in the run's folder: `tensorboard --logdir outputs`."""

from torch.utils.tensorboard import SummaryWriter

from panoptic_dl.loggers.base import Details, Logger, Metrics, Run


class TensorBoardLogger(Logger):
    """Writes each number of metrics.json as a scalar, in sections as W&B has them, in mode=train.

    A resumed run hides what was logged of the iterations that it trains again. An evaluation alone
    is one point, which results.csv has.
    """

    def __init__(self) -> None:
        self._events: SummaryWriter | None = None

    def start(self, run: Run) -> None:
        if run.mode == "train":
            self._events = SummaryWriter(str(run.folder), purge_step=run.start or None)

    def step(self, iteration: int, metrics: Metrics) -> None:
        if self._events is not None:
            for name, value in self.in_sections(metrics).items():
                self._events.add_scalar(name, value, iteration)

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        self.step(iteration, metrics)

    def finish(self, status: str, exit_code: int) -> None:
        if self._events is not None:
            self._events.close()
