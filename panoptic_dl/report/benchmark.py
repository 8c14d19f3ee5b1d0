"""Speed: a table of stages, one of several benchmarks, and stacked bars of where the time goes."""

import contextlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.core.files import read_json_object, write_text
from panoptic_dl.core.run_folder import read_sweep
from panoptic_dl.core.settings import BenchmarkSettings, as_yaml
from panoptic_dl.report.text import markdown_table
from panoptic_dl.visualize.charts import BLUE, GRID, RED, YELLOW

COLORS = {  # of the stages, in their order
    "load and decode": "#9aa5b1",
    "host to device": YELLOW,
    "network": BLUE,
    "post-processing": RED,
}


def summarize(milliseconds: Sequence[float], batch_size: int) -> dict[str, float]:
    """Median, 90th percentile and mean of a stage's times, and images a second by the mean."""
    mean = statistics.fmean(milliseconds)
    return {
        "p50": statistics.median(milliseconds),
        "p90": float(np.percentile(milliseconds, 90)),
        "mean": mean,
        "images_per_s": 1000 * batch_size / max(mean, 1e-9),
    }


def benchmark_text(result: Mapping[str, Any]) -> str:
    """One result of mode=benchmark: its circumstances and its table."""
    columns = ("p50", "p90", "mean", "images_per_s")
    rows = [
        [stage, *(f"{times[column]:.2f}" for column in columns)]
        for stage, times in result["stages"].items()
    ]
    lines = [
        f"{result['name']}: {_size(result)} pixels, {_options(result)}",
        result["machine"],
        markdown_table(["stage", "p50 ms", "p90 ms", "mean ms", "images/s"], rows),
        f"{result['parameters'] / 1e6:.1f} M parameters, {_operations(result)} GMACs "
        f"({result['GMACs_convention']})",
        f"peak memory: {_memory(result)}",
    ]
    if result["effect"]:
        lines.append(f"output against fp32 eager: {_difference(result)}")
        if result["weights"] is None:
            lines.append(
                "(with random weights, whose classes are close calls: trained ones change less)"
            )
    return "\n".join(lines)


def engines_text(result: Mapping[str, Any]) -> str:
    """The programs that run an exported file, one a line, beside PyTorch."""
    first = next(iter(result["programs"].values()))
    rows = [
        [
            program,
            *(f"{times[column]:.2f}" for column in ("p50", "p90", "images_per_s")),
            f"{first['p50'] / times['p50']:.2f}",
            f"{100 * times['other labels']:.4f} %" if "other labels" in times else "",
        ]
        for program, times in result["programs"].items()
    ]
    headings = ["program", "p50 ms", "p90 ms", "images/s", "times as fast", "other labels"]
    return f"{result['machine']}\n{markdown_table(headings, rows)}"


def autotune_text(result: Mapping[str, Any]) -> str:
    """The settings that `benchmark.autotune` has tried, one a line, and the fastest's overrides."""

    def overrides(settings: Mapping[str, Any]) -> str:
        return " ".join(f"benchmark.{name}={as_yaml(value)}" for name, value in settings.items())

    first = result["rows"][0]["ms"]
    rows = [
        [
            overrides(row["settings"]).replace("benchmark.", ""),
            f"{row['ms']:.2f}",
            f"{first / row['ms']:.2f}",
            f"{100 * row['effect'].get('changed_classes', 0.0):.3g} %",
        ]
        for row in result["rows"]
    ]
    headings = ["setting", "network ms", "times as fast", "other classes"]
    best, random = result["fastest"], " (of random weights, whose classes are close calls)"
    lines = [
        f"{result['name']}: {_size(result)} pixels; {result['machine']}",
        markdown_table(headings, rows, "lrrr"),
        f"fastest with at most {100 * result['tolerance']:.3g} % other classes"
        f"{'' if result['weights'] else random}: {overrides(best) if best else 'none'}",
    ]
    return "\n".join(lines)


def _combined_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Several results, one a line: medians of the stages."""
    stages = [s for s in (*COLORS, "total") if any(s in r["stages"] for r in results)]
    headings = ["row", "options", *(f"{stage} ms" for stage in stages)]
    headings += ["images/s", "M par.", "GMACs", "peak memory"]
    compared = any(result["effect"] for result in results)
    rows = []
    for result in results:
        times = result["stages"]
        rows.append(
            [
                result["name"],
                _options(result, with_size=not _same_size(results)),
                *(f"{times[stage]['p50']:.2f}" if stage in times else "" for stage in stages),
                f"{times['total']['images_per_s']:.2f}",
                f"{result['parameters'] / 1e6:.1f}",
                _operations(result),
                _memory(result),
                *([_difference(result)] if compared else []),
            ]
        )
    headings += ["output against fp32 eager"] if compared else []
    align = "ll" + "r" * (len(stages) + 3) + ("ll" if compared else "l")
    return markdown_table(headings, rows, align)


def combine_benchmarks(folder: Path) -> str | None:
    """Table, JSON and picture of all results below a sweep's folder; None where there is none."""
    files = {file.parent.name: file for file in sorted(folder.glob("*/benchmark.json"))}
    with contextlib.suppress(OSError, ValueError):  # in the order of the sweep's plan
        _, order = read_sweep(folder)
        files = {name: files[name] for name in order if name in files} or files
    if not files:
        return None
    results = [read_json_object(file) for file in files.values()]
    machines = dict.fromkeys(result["machine"] for result in results)
    text = "\n".join([*machines, _combined_table(results)])
    write_text(folder / "benchmark.md", text + "\n")
    write_text(folder / "benchmark.json", json.dumps(results, indent=2) + "\n")
    draw_stages(results, folder / "benchmark.png")
    return f"{text}\nSaved {folder}/benchmark.md, .json and .png"


def _options(result: Mapping[str, Any], with_size: bool = False) -> str:
    """What was run, as far as it is not the default, in words."""
    settings = result["settings"]
    words = [settings["precision"]]
    words += [
        name.replace("_", " ")
        for name in ("channels_last", "compile", "fold_batch_norm", "network_only")
        if settings[name]
    ]
    if settings["postprocess"] != "fast":
        words.append(f"post-processing by {settings['postprocess']}")
    if with_size:
        words.append(f"{_size(result)} pixels")
    if settings["batch_size"] != 1:
        words.append(f"batch of {settings['batch_size']}")
    if settings["num_things"] != BenchmarkSettings.num_things:
        words.append(f"{settings['num_things']} things")
    if result["weights"]:
        words.append(Path(result["weights"]).name)
    return ", ".join(words)


def _size(result: Mapping[str, Any]) -> str:
    return "{} x {}".format(*result["image_size"])


def _same_size(results: Sequence[Mapping[str, Any]]) -> bool:
    return len({_size(result) for result in results}) == 1


def _operations(result: Mapping[str, Any]) -> str:
    return f"{result['GMACs']:.2f}" if result["GMACs"] < 100 else f"{result['GMACs']:.0f}"


def _memory(result: Mapping[str, Any]) -> str:
    host = f"host {result['peak_host_MiB']:.0f} MiB"
    device = result["peak_device_MiB"]
    return host if device is None else f"device {device:.0f} MiB, {host}"


def _difference(result: Mapping[str, Any]) -> str:
    """How much the output differs from that of the same network in fp32; "" where not measured."""
    effect = result["effect"]
    if not effect:
        return ""
    text = (
        f"logits differ by at most {effect['max_logit_difference']:.2g} (they spread by "
        f"{effect['logit_spread']:.2g}), {100 * effect['changed_classes']:.3g} % of classes change"
    )
    if effect["changed_panoptic"] is not None:
        text += f", {100 * effect['changed_panoptic']:.3g} % of panoptic pixels"
    return text


def draw_stages(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """A bar for each result, its median stages stacked, and its median total, as a PNG."""
    same_size = _same_size(results)
    rows = []
    for result in results:
        options = _options(result, with_size=not same_size)
        label = result["name"] if options == "fp32" else f"{result['name']}\n{options}"
        p50 = {stage: times["p50"] for stage, times in result["stages"].items()}
        stages = {stage: p50[stage] for stage in COLORS if stage in p50}
        rows.append((label, stages, p50["total"]))
    size = f", {_size(results[0])} pixels" if same_size else ""
    xlabel = f"median milliseconds for a batch{size} ({results[0]['machine']})"
    draw_stage_bars(rows, COLORS, xlabel, file)


def draw_stage_bars(
    rows: Sequence[tuple[str, Mapping[str, float], float]],
    colors: Mapping[str, str],
    xlabel: str,
    file: Path,
) -> None:
    """Write a PNG of rows: a label, milliseconds by stage (as colors), the total after the bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.7 + 0.62 * len(rows)), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for row, (_, stages, total) in enumerate(rows):
        left = 0.0
        for stage, width in stages.items():
            axes.barh(row, width, left=left, color=colors[stage], height=0.62, label=stage)
            left += width
        text = f"{total / 1000:.3g} s" if total >= 1000 else f"{total:.3g} ms"
        offset: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(text, (left, row), **offset, va="center", fontsize=9)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    look: dict[str, Any] = {
        "loc": "outside upper left",
        "ncols": len(handles),
        "frameon": False,
        "fontsize": 9,
    }
    figure.legend(handles.values(), handles.keys(), **look)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(file)
