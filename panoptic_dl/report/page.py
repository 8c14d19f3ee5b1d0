"""The report of runs: report.md, .csv, .tex, and one HTML page of at most five megabytes.

The page has the tables, learning curves, metrics by class, speed and memory, the same validation
images for every run, and what differs between the configs of a table's runs. Of charts here are the
numbers and pixels; templates/charts.html draws them as inline SVG, in the colors of
templates/style.css. (Matplotlib's SVG has style attributes, which the page's policy forbids.)
"""

import base64
import hashlib
import io
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from PIL import Image

from panoptic_dl.core.files import write_text
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
from panoptic_dl.report.runs import Collected, Curves, Run, collect, read_curves, thinned
from panoptic_dl.report.tables import STATED, Table, build_tables, find_benchmark
from panoptic_dl.report.text import duration, metric_name, short_names

LIMIT = 5_000_000  # bytes of the page

COPIES = ("task.", "mode.")  # hold resolved copies of other keys of a config
MAX_DIFFERENCES = 80  # keys of a table
# Last parts of keys that are not compared: names, folders, seeds, and what is printed, drawn and
# saved.
IGNORED = (
    "seed", "run_dir", "resume", "name", "row", "sweep_dir", "published_note", "published_row",
    "num_workers", "log_period", "activation_checkpointing", "max_nonfinite_skips", "per_class",
    "official", "num_threads", "save", "picture_count", "best_and_worst", "charts",
)  # fmt: skip

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
    labels = [run.label for run in collected.runs]
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
            learning=learning_curves(tables, curves, detail.points),
            classes=_compare_classes(tables) if detail.comparisons else [],
            speed=speeds(tables, curves, collected.benchmarks),
            galleries=shown,
            differences=_compare_settings(tables) if detail.comparisons else [],
            runs=collected.runs,
            planned=collected.planned,
            failed=collected.failed,
            unreadable=collected.unreadable,
            notes=notes,
            stated=STATED,
            made=made,
            counts=_counts(tables, collected),
            ids={label: index for index, label in enumerate(labels)},
            short=short_names(labels, "/"),
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


def _counts(
    tables: Sequence[Table], collected: Collected
) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """Verdicts of the published rows, and what became of the runs: word, number, kind of dot."""
    verdicts = [line.verdict for table in tables for line in table.lines if line.verdict]
    words = Counter((verdict.word, verdict.kind) for verdict in verdicts)
    statuses = Counter([run.status for run in collected.runs] + ["failed"] * len(collected.failed))
    rows = [(word, count, kind) for (word, kind), count in words.items()]
    runs = [(status, count, status) for status, count in statuses.items()]
    runs += [("not started", len(collected.planned), "open")] if collected.planned else []
    runs += [("unreadable", len(collected.unreadable), "failed")] if collected.unreadable else []
    return [("Published rows", rows), ("Runs", runs)]


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
        rows = _differing(list(runs.values()))
        if rows:
            about = {"title": table.title, "runs": list(runs)}
            more = len(rows[MAX_DIFFERENCES:])
            found.append(about | {"rows": rows[:MAX_DIFFERENCES], "more": more})
    return found


def _differing(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys with different values, and the values; "" where a config has no such key."""
    rows = {}
    for key in dict.fromkeys(key for each in settings for key in each):
        values = tuple(each.get(key, "") for each in settings)
        leaf = key.rpartition(".")[2]
        if len(set(values)) > 1 and (key == "seed" or leaf not in IGNORED):
            rows[key] = (values, leaf)
    originals = {row for key, row in rows.items() if not key.startswith(COPIES)}
    return [
        (key, row[0])
        for key, row in rows.items()
        if not (key.startswith(COPIES) and row in originals)
    ]


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
