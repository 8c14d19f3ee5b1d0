"""Where the time goes: a bar for each thing that was measured, its stages stacked."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_stage_bars(
    rows: Sequence[tuple[str, Mapping[str, float], float]],
    colors: Mapping[str, str],
    xlabel: str,
    file: Path,
) -> None:
    """Write a PNG.

    Args:
        rows: a label, milliseconds by stage, and the total that is written beside the bar.
        colors: of all stages, in their order.
        xlabel: what is measured, and on which machine.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.7 + 0.62 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, (_, stages, total) in enumerate(rows):
        left = 0.0
        for stage, width in stages.items():
            axes.barh(row, width, left=left, color=colors[stage], height=0.62, label=stage)
            left += width
        axes.annotate(
            f"{total / 1000:.3g} s" if total >= 1000 else f"{total:.3g} ms",
            (left, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e6ea")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(file)
