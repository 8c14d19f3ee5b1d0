"""Collect runs into a report: report.html, and the tables as .md, .csv and .tex.

    python scripts/report.py outputs/sweeps/cityscapes_panoptic_conv --out outputs/report

Folders are searched for runs, which know themselves by their run.json. Runs that cannot be read are
named, with the reason. The page is one file of at most five megabytes that opens without a network.
It has the tables, learning curves, metrics by class, speed and memory, the same validation images
for every run, and what differs between the configs of a table's runs.
"""

import argparse
import base64
import hashlib
import io
import itertools
import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from PIL import Image

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path, visible, write_text
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.evaluation.metrics import CLASS_CHARTS
from panoptic_dl.report.formats import (
    TEMPLATES,
    cell_texts,
    load_template,
    report_csv,
    report_latex,
    report_markdown,
)
from panoptic_dl.report.results import class_metrics
from panoptic_dl.report.runs import MOMENT, Collected, Curves, Run, collect, read_curves, thinned
from panoptic_dl.report.tables import (
    STATED,
    Cell,
    Table,
    build_tables,
    differing_settings,
    find_benchmark,
)
from panoptic_dl.report.text import duration, metric_name, short_names

LIMIT = 5_000_000  # bytes of the page

MAX_DIFFERENCES = 80  # keys of a table
GALLERY = Path("pictures", "gallery")


def make_report(
    folders: Sequence[Path], out: Path, *, made: str = "", **options: Any
) -> tuple[str, list[Path], list[str]]:
    """Write report.md, .csv, .tex and .html of all runs below `folders` into `out`.

    `made` is the date and time to print; `options` are those of `build_tables`. Returns the
    Markdown, the files, and notes on what was left out or could not be read.

    Raises ValueError: there are no runs, or too many for a page (the other files are written
    then); OSError: a file cannot be written; the one from before is as it was.
    """
    collected = collect(folders)
    tables = build_tables(collected.runs, collected.benchmarks, **options)
    out.mkdir(parents=True, exist_ok=True)
    markdown = report_markdown(tables, collected)
    write_text(out / "report.md", markdown)
    write_text(out / "report.csv", report_csv(tables))
    write_text(out / "report.tex", report_latex(tables))
    page, notes = _render_page(tables, collected, made)
    write_text(out / "report.html", page)
    return markdown, [out / f"report.{kind}" for kind in ("md", "csv", "tex", "html")], notes


class _Detail(NamedTuple):
    """How much a page shows."""

    longest: int  # pixels of a picture's longer side
    quality: int  # of JPEG
    most: int  # images of a dataset
    points: int  # of a curve
    comparisons: bool = True  # of configs, and of metrics by class


LEVELS = (
    _Detail(640, 84, 6, 240),
    _Detail(512, 80, 4, 240),
    _Detail(400, 74, 4, 120),
    _Detail(320, 70, 2, 80),
    _Detail(240, 64, 1, 50),
    _Detail(0, 0, 0, 30),
    _Detail(0, 0, 0, 10, comparisons=False),
)


def _note(detail: _Detail) -> str:
    """What the page says where it shows less than it could."""
    pictures = f"{detail.most} images a dataset, {detail.longest} pixels" if detail.most else "none"
    left_out = "differences between configs, metrics of classes"
    return (
        f"To stay below {LIMIT / 1e6:.0f} MB this page shows less than it could: pictures "
        f"({pictures}), curves ({detail.points} points)"
        f"{'' if detail.comparisons else f'; left out: {left_out}'}."
    )


def _render_page(
    tables: Sequence[Table], collected: Collected, made: str, limit: int = LIMIT
) -> tuple[str, list[str]]:
    """The page of at most `limit` bytes, and remarks: what was left out or could not be read."""
    style, script = ((TEMPLATES / x).read_text("utf-8") for x in ("style.css", "page.js"))
    template = load_template("report.html", autoescape=True, lstrip_blocks=True)
    names = run_names(tables, collected.runs)
    curves = {run.label: read_curves(run.folder / METRICS) for run in collected.runs}
    unread: list[str] = []
    for run in collected.runs:
        unread += [f"{run.label}: {remark}" for remark in run.remarks]
        if damaged := curves[run.label].damaged:
            unread.append(f"{run.label}: {damaged} lines of metrics.json are damaged and left out")
    unread += [f"{label} is unreadable: {reason}" for label, reason in collected.unreadable]
    for level, detail in enumerate(LEVELS):
        shown, remarks = _galleries(tables, detail)
        notes = [*([_note(detail)] if level else []), *unread, *remarks]
        page = template.render(
            tables=tables,
            learning=learning_curves(tables, curves, detail.points, names),
            classes=_compare_classes(tables) if detail.comparisons else [],
            speed=speeds(tables, collected),
            curves=curves,
            galleries=shown,
            differences=_compare_settings(tables) if detail.comparisons else [],
            runs=collected.runs,
            planned=collected.planned,
            failed=collected.failed,
            unreadable=collected.unreadable,
            notes=notes,
            stated=STATED,
            made=made,
            ids={run.label: index for index, run in enumerate(collected.runs)},
            names=names,
            short=short_names([run.label for run in collected.runs], "/"),
            cell_texts=cell_texts,
            duration=duration,
            style=Markup(style),
            script=Markup(script),
            hashes=[_sha256(style), _sha256(script)],
        )
        size = len(page.encode())
        if size <= limit:
            return page, notes
    raise ValueError(
        f"the page of {len(collected.runs)} runs would have {size / 1e6:.1f} MB, more than "
        f"{limit / 1e6:.1f}: report fewer folders at once"
    )


def _sha256(text: str) -> str:
    """Of a script or style, as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _compare_classes(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """PQ by class for each table that has it, else IoU; rows from the best to the worst class."""
    found = []
    for table in tables:
        groups = [line.group for line in table.lines if line.group]
        runs = [group.first for group in groups if group.finished]
        for task, measure, _ in CLASS_CHARTS:
            values = {run.label: _by_class(run, task).get(measure) for run in runs}
            columns = {label: by_class for label, by_class in values.items() if by_class}
            if columns:
                names = dict.fromkeys(itertools.chain.from_iterable(columns.values()))
                rows = [(n, [each.get(n, math.nan) for each in columns.values()]) for n in names]
                rows.sort(key=_mean, reverse=True)
                about = {"title": table.title, "measure": measure}
                found.append(about | {"runs": list(columns), "rows": rows})
                break
    return found


def _by_class(run: Run, task: str) -> Mapping[str, Mapping[str, float]]:
    tasks = run.results.get("results")
    metrics = tasks.get(task) if isinstance(tasks, dict) else None
    return class_metrics(metrics) if isinstance(metrics, dict) else {}


def _mean(row: tuple[str, Sequence[float]]) -> float:
    """Over the values that are known; below all others where none is."""
    present = [value for value in row[1] if math.isfinite(value)]
    return statistics.fmean(present) if present else -1.0


def _compare_settings(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Settings that differ between the runs of a table whose configs could be read."""
    found = []
    for table in tables:
        firsts = [line.group.first for line in table.lines if line.group]
        runs = {run.label: run.settings for run in firsts if run.settings}
        rows = differing_settings(list(runs.values()))
        if rows:
            about = {"title": table.title, "runs": list(runs)}
            more = len(rows[MAX_DIFFERENCES:])
            found.append(about | {"rows": rows[:MAX_DIFFERENCES], "more": more})
    return found


def _galleries(tables: Sequence[Table], detail: _Detail) -> tuple[list[dict[str, Any]], list[str]]:
    """The examples of each dataset, and a remark for each picture that cannot be read."""
    remarks: list[str] = []
    found = []
    by_dataset: dict[str, list[Run]] = {}
    for table in tables:
        for run in table.runs:
            if run.finished and (run.folder / GALLERY).is_dir():
                dataset = str(run.results.get("dataset") or table.title)
                by_dataset.setdefault(dataset, []).append(run)
    for dataset, runs in by_dataset.items() if detail.most else ():
        files = [f.name for run in runs for f in sorted((run.folder / GALLERY).glob("*_image.jpg"))]
        names = [name.removesuffix("_image.jpg") for name in dict.fromkeys(files)]
        shown = [_example(name, runs, detail, remarks) for name in names[: detail.most]]
        examples, more = list(filter(None, shown)), len(names[detail.most :])
        if examples:
            found.append({"title": dataset, "examples": examples, "more": more})
    return found, remarks


def _example(
    name: str, runs: Sequence[Run], detail: _Detail, remarks: list[str]
) -> dict[str, Any] | None:
    """A validation image as `data:` addresses: its "image" and "truth", and all "predictions"."""
    size, shared, predictions = (0, 0), {"truth": ""}, []
    for run in runs:
        for kind in ("image", "truth", "prediction"):
            file = run.folder / GALLERY / f"{name}_{kind}.jpg"
            if shared.get(kind) or not file.is_file():
                continue
            try:
                address, size = _address(file, detail)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                reason = str(error).replace(str(file), file.name)
                remarks.append(f"{run.label}: {file.name} cannot be shown ({reason})")
                continue
            if kind == "prediction":
                predictions.append((run.label, address))
            else:
                shared[kind] = address
    if "image" not in shared or not predictions:
        return None
    about = {"name": name, "width": size[0], "height": size[1]}
    return {**about, **shared, "predictions": predictions}


def _address(file: Path, detail: _Detail) -> tuple[str, tuple[int, int]]:
    """A picture as a `data:` address, and its (width, height)."""
    with Image.open(file, formats=["JPEG"]) as picture:
        small = picture.convert("RGB")
    small.thumbnail((detail.longest, detail.longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=detail.quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", small.size


COLORS = 8  # of series in style.css; further ones come again, dashed
MAIN_METRICS = ("PQ", "mIoU")  # of evaluations during training
LOSSES = ("total_loss", "loss_sem_seg", "loss_center", "loss_offset")


def learning_curves(
    tables: Sequence[Table], curves: Mapping[str, Curves], points: int, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Of each table with a run that trained: "title", "legend", "charts" and "numbers".

    `curves` and `names` are those of runs by label; a line has at most about so many points.
    "numbers" has what no run has more than one point of: its name, and the points by label.
    """
    found = []
    for table in tables:
        runs = [run.label for run in table.runs if curves[run.label].steps]
        there = dict.fromkeys(name for run in runs for name in curves[run].steps)
        losses = [name for name in LOSSES if name in there]
        losses += [name for name in there if name.startswith("loss_") and name not in LOSSES]
        charts, numbers = [], []
        for name in [*MAIN_METRICS, *losses, "lr"]:
            kind = "evaluations" if name in MAIN_METRICS else "steps"
            lines = {run: thinned(getattr(curves[run], kind).get(name, ()), points) for run in runs}
            series = [(names[run], i, lines[run]) for i, run in enumerate(runs) if lines[run]]
            title = f"{name} in percent" if name in MAIN_METRICS else metric_name(name)
            if any(len(line) > 1 for line in lines.values()):
                charts.append(chart(title, series, "iterations", kind))
            elif series:
                numbers.append((title, {run: line[0] for run, line in lines.items() if line}))
        if runs:
            legend = [(_series_class(index), run) for index, run in enumerate(runs)]
            about = {"title": table.title, "legend": legend, "charts": charts}
            found.append(about | {"numbers": numbers})
    return found


def speeds(tables: Sequence[Table], collected: Collected) -> list[dict[str, Any]]:
    """Of each table with a run or a benchmark: "title", "runs", "benchmarks" and "charts"."""
    found = []
    for table in tables:
        rows = {line.row for line in table.lines}
        own = [benchmark for benchmark in collected.benchmarks if benchmark["row"] in rows]
        if table.runs or own:
            about = {"title": table.title, "runs": table.runs, "charts": _speed_charts(table, own)}
            titles = [_benchmark_title(table, benchmark) for benchmark in own]
            found.append(about | {"benchmarks": list(zip(titles, own, strict=True))})
    return found


def _benchmark_title(table: Table, benchmark: Mapping[str, Any]) -> str:
    """The rows of the table whose network was measured, else the name of the experiment."""
    lines = [x for x in table.lines if x.group and find_benchmark(x.group.first, [benchmark])]
    return lines[0].title if lines[1:] else lines[0].name if lines else benchmark["row"]


def _speed_charts(table: Table, benchmarks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The main metric over speed, for each machine and size of images, with its Pareto front."""
    main = next((name for name in MAIN_METRICS if name in table.columns), "")
    charts = []
    for machine, size in dict.fromkeys((b["machine"], b["size"]) for b in benchmarks):
        same = [b for b in benchmarks if (b["machine"], b["size"]) == (machine, size)]
        dots = []
        for index, line in enumerate(table.lines):
            measured = find_benchmark(line.group.first, same) if line.group else None
            x = measured["images_per_s"] if measured else math.nan
            own = line.cells.get(main, Cell()).own
            if own is not None and math.isfinite(x) and math.isfinite(own.mean):
                dots.append((line.name, index, [(x, own.mean)]))
        if len({x for *_, ((x, _),) in dots}) > 1:
            title = f"{main} over images/s, {size} pixels, {machine}"
            charts.append(chart(title, dots, "images/s", "front"))
    return charts


def chart(
    title: str,
    series: Sequence[tuple[str, int, Sequence[tuple[float, float]]]],
    x_name: str,
    kind: str,
) -> dict[str, Any]:
    """What page.js of the templates draws of series: name, index of the color, and points.

    `kind` is steps, evaluations (with dots), or front: single points, the best of which are joined.
    """
    lines = [
        {
            "name": visible(name),
            "class": _series_class(index),
            "points": [[float(f"{value:.6g}") for value in point] for point in points],
        }
        for name, index, points in series
    ]
    return {"title": visible(title), "x": x_name, "kind": kind, "series": lines}


def _series_class(index: int) -> str:
    """The classes of a series' color and dashes in style.css."""
    return f"s{index % COLORS}" + (" again" if index // COLORS % 2 else "")


def run_names(tables: Sequence[Table], runs: Sequence[Run]) -> dict[str, str]:
    """By label the row of a run in its table, with its seed; without a row the folder.

    Where all rows have the same title, what differs is enough.
    """
    short = short_names([run.label for run in runs], "/")
    names = {}
    for table in tables:
        one_title = len({line.title for line in table.lines}) == 1
        for line in table.lines:
            for run in line.group.runs if line.group else ():
                name = line.detail if one_title and line.detail else line.name
                several = line.group is not None and len(line.group.runs) > 1
                names[run.label] = name + (f", seed {run.seed}" if several else "")
    # Pictures of several tables stand together where they are of one dataset.
    data = {run.label: str(run.results.get("dataset")) for run in runs}
    count = Counter((data[label], name) for label, name in names.items())
    told = {x: f"{y} ({short[x]})" if count[data[x], y] > 1 else y for x, y in names.items()}
    return {label: visible(name) for label, name in (short | told).items()}


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=local_path, metavar="FOLDER")
    parser.add_argument("--out", type=local_path, default=Path("outputs/report"), metavar="DIR")
    parser.add_argument("--published", action="store_true", help="also published rows not run")
    parser.add_argument(
        "--columns", default="", help="names or their beginnings, such as PQ,mIoU,params,ms"
    )
    arguments = parser.parse_args()
    columns = [each.strip() for each in arguments.columns.split(",") if each.strip()]
    made = f"{datetime.now().astimezone():{MOMENT}}"
    options = {"all_published": arguments.published, "columns": columns}
    markdown, files, notes = make_report(arguments.folders, arguments.out, made=made, **options)
    print(markdown)
    for note in notes:
        print(visible(f"note: {note}"), file=sys.stderr)
    for file in files:
        print(f"saved {file} ({file.stat().st_size / 1e3:,.0f} kB)")


if __name__ == "__main__":
    main()
