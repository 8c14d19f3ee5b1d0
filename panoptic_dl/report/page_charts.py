"""Charts as inline SVG; colours and letters are the page's (template style.css).

Axes of charts: round ticks, and where values lie between them.

Learning curves: the runs of a table in the same charts.

Speed and memory of rows: what benchmarks measured, and what training took.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from panoptic_dl.core.files import read_json_object
from panoptic_dl.core.run_folder import Fields
from panoptic_dl.report.runs import Curves, Points, Run, Unreadable, thinned
from panoptic_dl.report.tables import Line, Table


@dataclass(frozen=True)
class Scale:
    """Maps values `low`..`high` to pixels `start`..`end`, in proportion."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def limits(values: Sequence[float], room: float = 0.04) -> tuple[float, float]:
    """The least and the greatest with a little room, never the same; (0, 1) without values."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    space = (high - low) * room or abs(high) * 0.1 or 1.0
    return low - space, high + space


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within the limits: multiples of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return []
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((f * power for f in (1, 2, 5) if f * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """ "0", "0.25", "20k", "1.5M", "1e-5": as short as it can be."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 9.9e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26  # pixels around the plot
COLORS = 8  # of series in style.css; further ones come again, dashed
LETTER = 6.0  # pixels of a letter, about


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    index: int  # of its colour; the same run has the same in all charts of a section
    points: Points


@dataclass(frozen=True)
class Dot:
    """A point of a scatter chart."""

    name: str
    index: int
    x: float
    y: float


def series_class(index: int) -> str:
    """The classes of a series' colour and dashes."""
    return f"s{index % COLORS}" + (" again" if index // COLORS % 2 else "")


def line_chart(title: str, series: Sequence[Series], *, dots: bool = False) -> Markup:
    """Lines over iterations; `dots` marks each point, for figures that are few."""
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    x_axis = Scale(*limits(xs, 0.0), LEFT, WIDTH - RIGHT)
    y_axis = Scale(*limits(ys), HEIGHT - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis)]
    for each in series:
        shown = [(x_axis(x), y_axis(y)) for x, y in each.points]
        kind = series_class(each.index)
        name = escape(each.name)
        path = " ".join(f"{x:g},{y:g}" for x, y in shown)
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{name}</title></polyline>')
        for (x, y), (iteration, value) in zip(shown, each.points, strict=True) if dots else ():
            said = f"{name}: {value:.1f} after {iteration:,} iterations"
            parts.append(_circle(kind, x, y, 3, said))
    return _svg(f"{title} over iterations", parts)


def scatter_chart(title: str, dots: Sequence[Dot], x_name: str, y_name: str) -> Markup:
    """Named points."""
    x_axis = Scale(*limits([dot.x for dot in dots], 0.25), LEFT, WIDTH - RIGHT)
    y_axis = Scale(*limits([dot.y for dot in dots], 0.25), HEIGHT - BOTTOM - 12, TOP)
    parts = [_frame(x_axis, y_axis)]
    for dot in dots:
        x, y = x_axis(dot.x), y_axis(dot.y)
        kind = series_class(dot.index)
        said = f"{escape(dot.name)}: {dot.x:.2f} {escape(x_name)}, {escape(y_name)} {dot.y:.1f}"
        parts.append(_circle(kind, x, y, 5, said))
        # A name that would leave the chart on the right stands on the left of its point.
        left = x + 9 + LETTER * len(dot.name) > WIDTH
        place = f'x="{x - 9:g}" text-anchor="end"' if left else f'x="{x + 9:g}"'
        parts.append(f'<text class="name" {place} y="{y + 4:g}">{escape(dot.name)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:g}" y="{HEIGHT - 1}" text-anchor="middle">{escape(x_name)}</text>'
    )
    return _svg(title, parts)


def bar(value: float) -> Markup:
    """A bar for a percentage, as wide as its cell."""
    width = min(100.0, max(0.0, value))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.1f}" height="4"/></svg>'
    )


def _frame(x_axis: Scale, y_axis: Scale) -> str:
    """Ticks and grid lines."""
    bottom = y_axis.start
    parts = []
    for tick in ticks(y_axis.low, y_axis.high):
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 3.5:g}" text-anchor="end">{tick_text(tick)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom:g}" y2="{bottom:g}"/>'
    )
    for tick in ticks(x_axis.low, x_axis.high, 6):
        x = x_axis(tick)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            f'<text x="{x:g}" y="{bottom + 16:g}" text-anchor="{anchor}">{tick_text(tick)}</text>'
        )
    return "".join(parts)


def _circle(kind: str, x: float, y: float, radius: int, said: str) -> str:
    return (
        f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius}"><title>{said}</title></circle>'
    )


def _svg(title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


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


@dataclass(frozen=True)
class Benchmark:
    """What mode=benchmark measured of a row."""

    row: str
    machine: str
    size: str  # of images, in pixels
    images_per_s: float
    device_MiB: float  # NaN on the CPU
    host_MiB: float


@dataclass(frozen=True)
class Cost:
    """What a run took; NaN where it is not known."""

    run: str
    device: str
    images_per_s: float
    device_MiB: float
    host_MiB: float
    wall_seconds: float
    device_hours: float


@dataclass(frozen=True)
class Speed:
    """The cost and the benchmarks of one table's runs."""

    title: str
    costs: Sequence[Cost]
    benchmarks: Sequence[Benchmark]
    charts: Sequence[tuple[str, Markup]]


def read_benchmarks(runs: Sequence[Run]) -> tuple[list[Benchmark], list[Unreadable]]:
    """Of all runs of mode=benchmark that have finished."""
    found, unreadable = [], []
    for run in runs:
        if run.mode == "benchmark" and run.finished:
            try:
                found.append(_read(run.folder / "benchmark.json", run.row))
            except (ValueError, OSError) as error:
                unreadable.append(Unreadable(run.label, f"benchmark.json: {error}"))
    return found, unreadable


def speeds(
    tables: Sequence[Table], curves: Mapping[str, Curves], benchmarks: Sequence[Benchmark]
) -> list[Speed]:
    """For each table of which a run or a benchmark is known."""
    found = []
    for table in tables:
        rows = {line.row for line in table.lines}
        own = [benchmark for benchmark in benchmarks if benchmark.row in rows]
        costs = [_cost(run, curves[run.label]) for run in runs_of(table)]
        if costs or own:
            found.append(Speed(table.title, costs, own, _charts(table, own)))
    return found


def _read(file: Path, row: str) -> Benchmark:
    fields = Fields(read_json_object(file), file.name)
    sides = fields.texts("image_size")
    if len(sides) != 2:
        raise ValueError(f"image_size must be [height, width], not {sides}")
    total = fields.object("stages").object("total")
    return Benchmark(
        row=row,
        machine=fields.text("machine"),
        size=f"{sides[0]} x {sides[1]}",
        images_per_s=total.number("images_per_s"),
        device_MiB=fields.number("peak_device_MiB"),
        host_MiB=fields.number("peak_host_MiB"),
    )


def _cost(run: Run, curves: Curves) -> Cost:
    rate = curves.typical("images_per_s")
    batch: Any = run.train.get("batch_size")
    if math.isnan(rate) and isinstance(batch, (int, float)):  # runs of before that was recorded
        rate = batch / max(curves.typical("time"), 1e-9)
    environment = run.environment
    devices = environment.get("devices")
    times = f"{devices} x " if isinstance(devices, int) and devices > 1 else ""
    return Cost(
        run=run.label,
        device=f"{times}{environment.get('device', '')}",
        images_per_s=rate,
        device_MiB=curves.highest("device_memory_MiB"),
        host_MiB=curves.highest("host_memory_MiB"),
        wall_seconds=run.wall_seconds,
        device_hours=run.device_hours,
    )


def _charts(table: Table, benchmarks: Sequence[Benchmark]) -> list[tuple[str, Markup]]:
    """The main figure over speed, for each machine and size of images."""
    main = next((name for name in ("PQ", "mIoU") if name in table.columns), None)
    charts = []
    for machine, size in dict.fromkeys((b.machine, b.size) for b in benchmarks):
        rates = {
            b.row: b.images_per_s for b in benchmarks if (b.machine, b.size) == (machine, size)
        }
        dots = []
        for index, line in enumerate(table.lines):
            figure = _figure(line, main)
            if main and math.isfinite(rates.get(line.row, math.nan)) and math.isfinite(figure):
                dots.append(Dot(line.title, index, rates[line.row], figure))
        if dots:
            chart = scatter_chart(f"{main} over speed", dots, "images/s", str(main))
            charts.append((f"{main} over images/s, {size} pixels, {machine}", chart))
    return charts


def _figure(line: Line, name: str | None) -> float:
    cell = line.cells.get(name) if name else None
    return cell.own.mean if cell and cell.own else math.nan
