"""Charts of the page: learning curves, speed and memory, quality over speed.

Here are their numbers and pixels; templates/charts.html draws them as inline SVG, in the colors of
templates/style.css. (Matplotlib's SVG has style attributes, which the page's policy forbids.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panoptic_dl.report.runs import Curves, Run, thinned
from panoptic_dl.report.tables import Table, find_benchmark
from panoptic_dl.report.text import metric_name

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26  # pixels around the plot
COLORS = 8  # of series in style.css; further ones come again, dashed
LETTER = 6.0  # pixels of a letter, about

MAIN_METRICS = ("PQ", "mIoU")  # of evaluations during training
LOSSES = ("total_loss", "loss_sem_seg", "loss_center", "loss_offset")

# Label, index of the color, and points: x, y and the text of a dot, "" for none.
Series = tuple[str, int, Sequence[tuple[float, float, str]]]


def learning_curves(
    tables: Sequence[Table], curves: Mapping[str, Curves], points: int
) -> list[dict[str, Any]]:
    """Of each table with a run that trained: "title", "legend" and "charts".

    `curves` are those of runs by label; a line has at most about so many points.
    """
    found = []
    for table in tables:
        runs = [run.label for run in table.runs if curves[run.label].steps]
        names = dict.fromkeys(name for run in runs for name in curves[run].steps)
        losses = [name for name in LOSSES if name in names]
        losses += [name for name in names if name.startswith("loss_") and name not in LOSSES]
        charts = []
        for name in [*MAIN_METRICS, *losses, "lr"]:
            evaluated = name in MAIN_METRICS
            series: list[Series] = []
            for index, run in enumerate(runs):
                own = curves[run].evaluations if evaluated else curves[run].steps
                line = [
                    (x, y, f"{run}: {y:.1f} after {x:,} iterations" if evaluated else "")
                    for x, y in thinned(own.get(name, ()), points)
                ]
                series += [(run, index, line)] if line else []
            title = f"{name} in percent" if evaluated else metric_name(name)
            if series:
                charts.append((title, chart(f"{title} over iterations", series)))
        if runs:
            legend = [(_series_class(index), run) for index, run in enumerate(runs)]
            found.append({"title": table.title, "legend": legend, "charts": charts})
    return found


def speeds(
    tables: Sequence[Table], curves: Mapping[str, Curves], benchmarks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each table with a run or a benchmark: "title", "costs", "benchmarks" and "charts"."""
    found = []
    for table in tables:
        rows = {line.row for line in table.lines}
        own = [benchmark for benchmark in benchmarks if benchmark["row"] in rows]
        costs = [_cost(run, curves[run.label]) for run in table.runs]
        if costs or own:
            about = {"title": table.title, "costs": costs, "benchmarks": own}
            found.append(about | {"charts": _speed_charts(table, own)})
    return found


def _cost(run: Run, curves: Curves) -> dict[str, Any]:
    """What a run took; NaN where it is not known."""
    return {
        "run": run.label,
        "device": run.device,
        "images_per_s": curves.typical("images_per_s"),
        "device_MiB": curves.highest("device_memory_MiB"),
        "host_MiB": curves.highest("host_memory_MiB"),
        "wall_seconds": run.wall_seconds,
        "device_hours": run.device_hours,
    }


def _speed_charts(
    table: Table, benchmarks: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """The main metric over speed, for each machine and size of images, with its Pareto front."""
    main = next((name for name in MAIN_METRICS if name in table.columns), "")
    charts = []
    for machine, size in dict.fromkeys((b["machine"], b["size"]) for b in benchmarks):
        same = [b for b in benchmarks if (b["machine"], b["size"]) == (machine, size)]
        dots: list[Series] = []
        for index, line in enumerate(table.lines):
            cell, measured = (
                line.cells.get(main),
                line.group and find_benchmark(line.group.first, same),
            )
            x = measured["images_per_s"] if measured else math.nan
            y = cell.own.mean if cell and cell.own else math.nan
            if math.isfinite(x) and math.isfinite(y):
                text = f"{line.title}: {x:.2f} images/s, {main} {y:.1f}"
                dots.append((line.title, index, [(x, y, text)]))
        if dots:
            drawn = chart(f"{main} over speed", dots, x_name="images/s")
            charts.append((f"{main} over images/s, {size} pixels, {machine}", drawn))
    return charts


def chart(title: str, series: Sequence[Series], x_name: str = "") -> dict[str, Any]:
    """What templates/charts.html draws: lines, with dots where points have texts.

    `x_name` is written below; the points of such a chart, one of each series, have its label, and
    those than which no other is better in both x and y are joined.
    """
    points = [point for *_, line in series for point in line]
    x_room, y_room = (0.25, 0.25) if x_name else (0.0, 0.04)
    bottom = HEIGHT - BOTTOM - (12 if x_name else 0)
    x_axis, x_ticks = _axis([x for x, *_ in points], x_room, (LEFT, WIDTH - RIGHT), 6)
    y_axis, y_ticks = _axis([y for _, y, _ in points], y_room, (bottom, TOP), 4)
    drawn = []
    for label, index, line in series:
        places = [(x_axis(x), y_axis(y), text) for x, y, text in line]
        drawn.append(
            {
                "class": _series_class(index),
                "label": label,
                "path": " ".join(f"{x:g},{y:g}" for x, y, _ in places),
                "dots": [place for place in places if place[2]],
                # A name that would leave the chart on the right is written on the left.
                "on_left": places[0][0] + 9 + LETTER * len(label) > WIDTH,
            }
        )
    best = sorted(
        (x, y)
        for x, y, _ in points
        if x_name and not any((a, b) != (x, y) and a >= x and b >= y for a, b, _ in points)
    )
    front = " ".join(f"{x_axis(x):g},{y_axis(y):g}" for x, y in best)
    size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT}
    axes = {"bottom": bottom, "x_ticks": x_ticks, "y_ticks": y_ticks, "x_name": x_name}
    return {"title": title, "series": drawn, "front": front, **size, **axes}


def _axis(
    values: Sequence[float], room: float, pixels: tuple[int, int], about: int
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """A function from values to pixels, and the pixels and texts of about so many ticks."""
    from matplotlib.ticker import MaxNLocator

    (low, high), (start, end) = (min(values), max(values)), pixels
    space = (high - low) * room or abs(high) * 0.1 or 1.0
    low, high = low - space, high + space  # never the same

    def place(value: float) -> float:
        return round(start + (value - low) / (high - low) * (end - start), 1)

    ticks = MaxNLocator(about, steps=[1, 2, 5, 10]).tick_values(low, high)
    return place, [(place(tick), f"{tick:,.6g}") for tick in ticks if low <= tick <= high]


def _series_class(index: int) -> str:
    """The classes of a series' color and dashes in style.css."""
    return f"s{index % COLORS}" + (" again" if index // COLORS % 2 else "")
