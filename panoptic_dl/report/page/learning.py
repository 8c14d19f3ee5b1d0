"""Learning curves: the runs of a table in the same charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from panoptic_dl.report.runs.curves import Curves, thinned
from panoptic_dl.report.runs.run import Run
from panoptic_dl.report.tables.build import Table

from .charts import Series, line_chart, series_class

FIGURES = ("PQ", "mIoU")  # on the way
LOSSES = ("total_loss", "loss_sem_seg", "loss_center", "loss_offset")
NAMES = {
    "total_loss": "total loss",
    "loss_sem_seg": "semantic loss",
    "loss_center": "centre loss",
    "loss_offset": "offset loss",
    "lr": "learning rate",
}


@dataclass(frozen=True)
class Legend:
    """What a colour stands for."""

    kind: str  # classes of its colour
    name: str


@dataclass(frozen=True)
class LearningCurves:
    """Charts of one table's runs."""

    title: str
    legend: Sequence[Legend]
    charts: Sequence[tuple[str, Markup]]  # with their titles


def learning_curves(
    tables: Sequence[Table], curves: Mapping[str, Curves], points: int
) -> list[LearningCurves]:
    """For each table with a run that trained.

    Args:
        curves: by the labels of runs.
        points: most of a line; longer ones are thinned.
    """
    found = []
    for table in tables:
        runs = [run for run in runs_of(table) if curves[run.label].steps]
        if not runs:
            continue
        charts = []
        names = dict.fromkeys(n for run in runs for n in curves[run.label].steps)
        losses = [n for n in LOSSES if n in names]
        losses += [n for n in names if n.startswith("loss_") and n not in LOSSES]
        for name in [*FIGURES, *losses, "lr"]:
            on_the_way = name in FIGURES
            series = []
            for index, run in enumerate(runs):
                own = curves[run.label]
                line = (own.evaluations if on_the_way else own.steps).get(name, ())
                if line:
                    series.append(Series(run.label, index, thinned(line, points)))
            if series:
                title = f"{name} in percent" if on_the_way else NAMES.get(name, name)
                charts.append((title, line_chart(title, series, dots=on_the_way)))
        legend = [Legend(series_class(index), run.label) for index, run in enumerate(runs)]
        found.append(LearningCurves(table.title, legend, charts))
    return found


def runs_of(table: Table) -> list[Run]:
    """All runs of a table's lines, in their order."""
    return [run for line in table.lines if line.group for run in line.group.runs]
