"""TensorBoard events in the run's folder."""

from torch.utils.tensorboard import SummaryWriter

from panoptic_dl.loggers.base import Details, Figures, Logger, Run


class TensorBoardLogger(Logger):
    """Every figure of metrics.json as a scalar of that name; of training."""

    def __init__(self) -> None:
        self._events: SummaryWriter | None = None

    def start(self, run: Run) -> None:
        if run.mode == "train":  # an evaluation alone is one point: results.csv has it
            self._events = SummaryWriter(str(run.folder), purge_step=run.start or None)

    def step(self, iteration: int, figures: Figures) -> None:
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, iteration)

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        self.step(iteration, figures)

    def finish(self, status: str, exit_code: int) -> None:
        if self._events is not None:
            self._events.close()
