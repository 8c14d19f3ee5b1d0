"""Charts as inline SVG; colours and letters are the page's (template style.css)."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from panoptic_dl.report.runs.curves import Points

from .scale import Scale, limits, tick_text, ticks

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
