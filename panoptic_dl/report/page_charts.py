"""Charts of the page as inline SVG: learning curves, and quality over speed.

Colors and letters are the page's (templates/style.css).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from panoptic_dl.core.files import read_json_object
from panoptic_dl.core.run_folder import Fields
from panoptic_dl.report.runs import Curves, Points, Run, thinned
from panoptic_dl.report.tables import Table

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26  # pixels around the plot
COLORS = 8  # of series in style.css; further ones come again, dashed
LETTER = 6.0  # pixels of a letter, about

MAIN_METRICS = ("PQ", "mIoU")  # of evaluations during training
LOSSES = ("total_loss", "loss_sem_seg", "loss_center", "loss_offset")
TITLES = {
    "total_loss": "total loss",
    "loss_sem_seg": "semantic loss",
    "loss_center": "centre loss",
    "loss_offset": "offset loss",
    "lr": "learning rate",
}


def learning_curves(
    tables: Sequence[Table], curves: Mapping[str, Curves], points: int
) -> list[dict[str, Any]]:
    """Charts of each table with a run that trained: "title", "legend" and "charts".

    Args:
        curves: by the labels of runs.
        points: most of a line; longer ones are thinned.
    """
    found = []
    for table in tables:
        runs = [run for run in table.runs if curves[run.label].steps]
        if not runs:
            continue
        names = dict.fromkeys(name for run in runs for name in curves[run.label].steps)
        losses = [name for name in LOSSES if name in names]
        losses += [name for name in names if name.startswith("loss_") and name not in LOSSES]
        charts = []
        for name in [*MAIN_METRICS, *losses, "lr"]:
            evaluated = name in MAIN_METRICS
            series = []
            for index, run in enumerate(runs):
                own = curves[run.label]
                line = (own.evaluations if evaluated else own.steps).get(name, ())
                if line:
                    series.append((run.label, index, thinned(line, points)))
            if series:
                title = f"{name} in percent" if evaluated else TITLES.get(name, name)
                charts.append((title, line_chart(title, series, dots=evaluated)))
        legend = [(_series_class(index), run.label) for index, run in enumerate(runs)]
        found.append({"title": table.title, "legend": legend, "charts": charts})
    return found


@dataclass(frozen=True)
class Benchmark:
    """What mode=benchmark measured of an experiment."""

    row: str
    machine: str
    size: str  # of images, in pixels
    images_per_s: float
    device_MiB: float  # NaN on the CPU
    host_MiB: float


def read_benchmarks(runs: Sequence[Run]) -> tuple[list[Benchmark], list[tuple[str, str]]]:
    """Read what mode=benchmark measured; also return label and reason of unreadable runs."""
    found, unreadable = [], []
    for run in runs:
        if run.mode == "benchmark" and run.finished:
            try:
                found.append(_read_benchmark(run.folder / "benchmark.json", run.row))
            except (ValueError, OSError) as error:
                unreadable.append((run.label, f"benchmark.json: {error}"))
    return found, unreadable


def _read_benchmark(file: Path, row: str) -> Benchmark:
    fields = Fields(read_json_object(file), file.name)
    sides = fields.texts("image_size")
    if len(sides) != 2:
        raise ValueError(f"image_size must be [height, width], not {sides}")
    return Benchmark(
        row=row,
        machine=fields.text("machine"),
        size=f"{sides[0]} x {sides[1]}",
        images_per_s=fields.object("stages").object("total").number("images_per_s"),
        device_MiB=fields.number("peak_device_MiB"),
        host_MiB=fields.number("peak_host_MiB"),
    )


def speeds(
    tables: Sequence[Table], curves: Mapping[str, Curves], benchmarks: Sequence[Benchmark]
) -> list[dict[str, Any]]:
    """Of each table with a run or a benchmark: "title", "costs", "benchmarks" and "charts"."""
    found = []
    for table in tables:
        rows = {line.row for line in table.lines}
        own = [benchmark for benchmark in benchmarks if benchmark.row in rows]
        costs = [_cost(run, curves[run.label]) for run in table.runs]
        if costs or own:
            about = {"title": table.title, "costs": costs, "benchmarks": own}
            found.append(about | {"charts": _speed_charts(table, own)})
    return found


def _cost(run: Run, curves: Curves) -> dict[str, Any]:
    """What a run took; NaN where it is not known."""
    rate, batch = curves.typical("images_per_s"), run.train.get("batch_size")
    if math.isnan(rate) and isinstance(batch, (int, float)):  # of a version without images_per_s
        rate = batch / max(curves.typical("time"), 1e-9)
    return {
        "run": run.label,
        "device": f"{run.times}{run.environment.get('device', '')}",
        "images_per_s": rate,
        "device_MiB": curves.highest("device_memory_MiB"),
        "host_MiB": curves.highest("host_memory_MiB"),
        "wall_seconds": run.wall_seconds,
        "device_hours": run.device_hours,
    }


def _speed_charts(table: Table, benchmarks: Sequence[Benchmark]) -> list[tuple[str, Markup]]:
    """The main metric over speed, for each machine and size of images."""
    main = next((name for name in MAIN_METRICS if name in table.columns), None)
    charts = []
    for machine, size in dict.fromkeys((b.machine, b.size) for b in benchmarks):
        rates = {
            b.row: b.images_per_s for b in benchmarks if (b.machine, b.size) == (machine, size)
        }
        dots = []
        for index, line in enumerate(table.lines):
            cell, rate = line.cells.get(main or ""), rates.get(line.row, math.nan)
            if cell and cell.own and math.isfinite(rate) and math.isfinite(cell.own.mean):
                dots.append((line.title, index, rate, cell.own.mean))
        if dots:
            chart = scatter_chart(f"{main} over speed", dots, "images/s", str(main))
            charts.append((f"{main} over images/s, {size} pixels, {machine}", chart))
    return charts


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


def _series_class(index: int) -> str:
    """The classes of a series' color and dashes."""
    return f"s{index % COLORS}" + (" again" if index // COLORS % 2 else "")


def line_chart(
    title: str, series: Sequence[tuple[str, int, Points]], *, dots: bool = False
) -> Markup:
    """Lines over iterations; `dots` marks each point.

    Args:
        series: name, index of the color, and points; a run has the same color in all charts.
    """
    xs = [x for *_, points in series for x, _ in points]
    ys = [y for *_, points in series for _, y in points]
    x_axis = Scale(*limits(xs, 0.0), LEFT, WIDTH - RIGHT)
    y_axis = Scale(*limits(ys), HEIGHT - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis)]
    for label, index, points in series:
        shown = [(x_axis(x), y_axis(y)) for x, y in points]
        kind, name = _series_class(index), escape(label)
        path = " ".join(f"{x:g},{y:g}" for x, y in shown)
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{name}</title></polyline>')
        for (x, y), (iteration, value) in zip(shown, points, strict=True) if dots else ():
            text = f"{name}: {value:.1f} after {iteration:,} iterations"
            parts.append(_circle(kind, x, y, 3, text))
    return _svg(f"{title} over iterations", parts)


def scatter_chart(
    title: str, dots: Sequence[tuple[str, int, float, float]], x_name: str, y_name: str
) -> Markup:
    """Points with a name, an index of the color, x and y."""
    x_axis = Scale(*limits([x for _, _, x, _ in dots], 0.25), LEFT, WIDTH - RIGHT)
    y_axis = Scale(*limits([y for *_, y in dots], 0.25), HEIGHT - BOTTOM - 12, TOP)
    parts = [_frame(x_axis, y_axis)]
    for label, index, x_value, y_value in dots:
        x, y = x_axis(x_value), y_axis(y_value)
        kind, name = _series_class(index), escape(label)
        text = f"{name}: {x_value:.2f} {escape(x_name)}, {escape(y_name)} {y_value:.1f}"
        parts.append(_circle(kind, x, y, 5, text))
        # A name that would leave the chart on the right is written on the left of its point.
        left = x + 9 + LETTER * len(label) > WIDTH
        place = f'x="{x - 9:g}" text-anchor="end"' if left else f'x="{x + 9:g}"'
        parts.append(f'<text class="name" {place} y="{y + 4:g}">{name}</text>')
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


def _circle(kind: str, x: float, y: float, radius: int, text: str) -> str:
    return (
        f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius}"><title>{text}</title></circle>'
    )


def _svg(title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
