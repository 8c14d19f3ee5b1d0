"""Logger of TensorBoard events, in the run's folder: `tensorboard --logdir outputs`."""

import json
from typing import Any

import yaml
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from panoptic_dl.evaluation.metrics import PUBLISHED
from panoptic_dl.loggers.base import (
    Details,
    Logger,
    Metrics,
    Run,
    facts_of,
    jpeg,
    panels,
    tagged,
    tagged_classes,
    tagged_pictures,
)
from panoptic_dl.report.results import class_tables


class TensorBoardLogger(Logger):
    """Writes the numbers, pictures and tables of mode=train, and the config as text.

    A resumed run hides what was logged of the iterations that it trains again. An evaluation alone
    is one point, which results.csv has.
    """

    def __init__(self) -> None:
        self._events: Any = None
        self._end: Any = None  # what says that the run has finished

    def start(self, run: Run) -> None:
        if run.mode != "train":
            return
        events: Any = SummaryWriter(str(run.folder), purge_step=run.start or None)
        self._events = events
        facts = facts_of(run)
        for name, text in (
            ("config", yaml.safe_dump(dict(facts.config), sort_keys=False)),
            ("about", json.dumps(facts.about, indent=2)),
        ):
            events.add_text(f"run/{name}", _as_code(text), run.start)
        layout: dict[str, dict[str, Any]] = {}
        for panel in panels():
            if not panel.pictures:
                chart = ["Multiline", [f"^{tag}$" for tag in panel.tags]]
                layout.setdefault(panel.section, {})[panel.title] = chart
        events.add_custom_scalars(layout)
        # `add_hparams` would make a run of its own in a folder below.
        metrics = dict.fromkeys((f"val/{name}" for name in PUBLISHED), 0.0)
        *begin, self._end = hparams(dict(facts.parameters), metrics)
        for summary in begin:
            events.file_writer.add_summary(summary)

    def step(self, iteration: int, metrics: Metrics) -> None:
        self._log(tagged(metrics), iteration)

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        self._log(tagged(metrics) | tagged_classes(details), iteration)
        if self._events is None:
            return
        for table in class_tables(details.results):
            self._events.add_text(f"classes/{table.title}", table.text(), iteration)
        for name, picture in tagged_pictures(details).items():
            image = Summary.Image(
                height=picture.height,
                width=picture.width,
                colorspace=3,
                encoded_image_string=jpeg(picture),  # `add_image` writes PNG, ten times as large
            )
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._events.file_writer.add_summary(summary, iteration)
        self._events.flush()

    def finish(self, status: str, exit_code: int) -> None:
        if self._events is not None:
            if status == "finished":
                self._events.file_writer.add_summary(self._end)
            self._events.close()

    def _log(self, values: Metrics, iteration: int) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, iteration)


def _as_code(text: str) -> str:
    """Text as Markdown that shows it line by line."""
    return "".join(f"    {line}\n" for line in text.splitlines())
