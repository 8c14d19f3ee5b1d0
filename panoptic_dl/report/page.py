"""The report of runs: report.md, .csv, .tex, and one HTML page of at most five megabytes.

The page has the tables, learning curves, metrics by class, speed and memory, the same validation
images for every run, and what differs between the configs of a table's runs.
"""

import base64
import hashlib
import io
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
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
from panoptic_dl.report.page_charts import learning_curves, speeds
from panoptic_dl.report.results import class_metrics
from panoptic_dl.report.runs import Collected, Run, collect, read_curves
from panoptic_dl.report.tables import STATED, Table, build_tables
from panoptic_dl.report.text import duration, short_names

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
