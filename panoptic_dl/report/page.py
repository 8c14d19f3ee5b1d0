"""One HTML file of at most five megabytes from all that was found of runs.

Figures of single classes, of the runs of a table side by side.

What differs between the configs of a table's runs.

The gallery: the same validation images for every run, as small JPEGs inside the page.

Make the report of runs: Markdown, CSV, LaTeX and one HTML page.
"""

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from panoptic_dl.core.files import write_text
from panoptic_dl.core.images import no_truncated_images
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.evaluation.metrics import CLASS_CHARTS
from panoptic_dl.report.formats import cell_texts, report_csv, report_latex, report_markdown
from panoptic_dl.report.page_charts import (
    Benchmark,
    bar,
    learning_curves,
    read_benchmarks,
    runs_of,
    speeds,
)
from panoptic_dl.report.runs import Collected, Curves, Run, collect, group_runs, read_curves
from panoptic_dl.report.tables import STATED, Line, Table, build_tables, figure_name, published_rows


@dataclass(frozen=True)
class ClassTable:
    """Percentages: a row for each class from the best to the worst, a column for each run."""

    title: str
    measure: str
    runs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]  # NaN: not in the truth, or not measured


def class_tables(tables: Sequence[Table]) -> list[ClassTable]:
    """PQ by class for each table with such figures, else IoU."""
    found = []
    for table in tables:
        for task, measure, _ in CLASS_CHARTS:
            columns = {}
            for line in table.lines:
                run = line.group.first if line.group else None
                values = _of_classes(run.results, task, measure) if run and run.finished else {}
                if run and values:
                    columns[run.label] = values
            if columns:
                found.append(_table(table.title, measure, columns))
                break
    return found


def _of_classes(results: Mapping[str, object], task: str, measure: str) -> dict[str, float]:
    """Of one evaluation, by class."""
    tasks = results.get("results")
    figures = tasks.get(task) if isinstance(tasks, dict) else None
    found = {}
    for key, value in figures.items() if isinstance(figures, dict) else ():
        name, dash, of_class = str(key).partition("-")
        if dash and name == measure:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            found[of_class] = float(value) if number else math.nan
    return found


def _table(title: str, measure: str, columns: Mapping[str, Mapping[str, float]]) -> ClassTable:
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [(n, [values.get(n, math.nan) for values in columns.values()]) for n in names]
    rows.sort(key=lambda row: -_mean(row[1]))
    return ClassTable(title, measure, list(columns), rows)


def _mean(values: Sequence[float]) -> float:
    """Over the runs that have it; below all others where none has."""
    present = [value for value in values if math.isfinite(value)]
    return sum(present) / len(present) if present else -1.0


COPIES = ("task", "mode")  # hold resolved copies of other keys
MOST = 80  # keys of a table
UNSAID = (  # last parts of keys: names, folders, seeds, and what is printed, drawn and saved
    *("seed", "run_dir", "resume", "name", "row", "sweep_dir", "published_note", "published_row"),
    *("num_workers", "log_period", "activation_checkpointing", "max_nonfinite_skips"),
    *("per_class", "official", "num_threads", "save", "picture_count", "best_and_worst", "charts"),
)
LONGEST = 60  # letters of a value


@dataclass(frozen=True)
class Differences:
    """A row for each key whose value is not the same in all runs."""

    title: str
    runs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    more: int  # keys that are not shown


def differences(tables: Sequence[Table]) -> list[Differences]:
    """Of tables with at least two experiments whose configs could be read."""
    found = []
    for table in tables:
        runs = [line.group.first for line in table.lines if line.group]
        runs = [run for run in runs if run.settings]
        if len(runs) > 1:
            rows = differing([run.settings for run in runs])
            if rows:
                labels = [run.label for run in runs]
                shown = [(key, [_short(v) for v in values]) for key, values in rows[:MOST]]
                found.append(Differences(table.title, labels, shown, max(0, len(rows) - MOST)))
    return found


def differing(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys with different values, and the values; "" where a config has no such key.

    Keys of `task` and `mode` that repeat the values of another key of the same name are left out,
    as are names and folders.
    """
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [(key, tuple(each.get(key, "") for each in settings)) for key in keys]
    rows = [
        (key, values)
        for key, values in rows
        if len(set(values)) > 1 and (key == "seed" or _last(key) not in UNSAID)
    ]
    originals = {(_last(key), values) for key, values in rows if _first(key) not in COPIES}
    return [
        (key, values)
        for key, values in rows
        if _first(key) not in COPIES or (_last(key), values) not in originals
    ]


def _first(key: str) -> str:
    return key.partition(".")[0]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"


FOLDER = Path("pictures", "gallery")
KINDS = ("image", "truth", "prediction")
MOST_PIXELS = 40_000_000  # of a picture; ours have 640 x 640 at most


@dataclass(frozen=True)
class Example:
    """One validation image, and what each run says of it; pictures are `data:` addresses."""

    name: str
    image: str
    truth: str
    predictions: Sequence[tuple[str, str]]  # label of the run, picture
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """The examples of one dataset."""

    title: str
    examples: Sequence[Example]
    more: int  # images that are not shown


def galleries(
    tables: Sequence[Table], *, longest: int, quality: int, most: int
) -> tuple[list[Gallery], list[str]]:
    """The pictures of all runs of `tables`, and a remark for each that cannot be read.

    Args:
        longest: pixels of a picture's longer side.
        quality: of JPEG.
        most: images of a dataset; 0 for no pictures at all.
    """
    remarks: list[str] = []
    found = []
    by_dataset: dict[str, list[Run]] = {}
    for table in tables:
        for run in runs_of(table):
            if run.finished and (run.folder / FOLDER).is_dir():
                by_dataset.setdefault(str(run.results.get("dataset") or table.title), []).append(
                    run
                )
    for dataset, runs in by_dataset.items() if most else ():
        names = dict.fromkeys(name for run in runs for name in _names(run.folder / FOLDER))
        examples = []
        for name in list(names)[:most]:
            example = _example(name, runs, longest, quality, remarks)
            examples += [example] if example else []
        if examples:
            found.append(Gallery(dataset, examples, max(0, len(names) - most)))
    return found, remarks


def _names(folder: Path) -> list[str]:
    return sorted(f.name.removesuffix("_image.jpg") for f in folder.glob("*_image.jpg"))


def _example(
    name: str, runs: Sequence[Run], longest: int, quality: int, remarks: list[str]
) -> Example | None:
    size = (0, 0)
    shared: dict[str, str] = {}
    predictions = []
    for run in runs:
        for kind in KINDS:
            if kind in shared:
                continue
            file = run.folder / FOLDER / f"{name}_{kind}.jpg"
            if not file.is_file():
                continue
            try:
                address, size = _address(file, longest, quality)
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
    return Example(name, shared["image"], shared.get("truth", ""), predictions, *size)


def _address(file: Path, longest: int, quality: int) -> tuple[str, tuple[int, int]]:
    """A picture as a `data:` address, and its (width, height)."""
    with no_truncated_images(), Image.open(file, formats=["JPEG"]) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels")
        small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", small.size


LIMIT = 5_000_000  # bytes
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Detail:
    """How much a page shows; `most` images of a dataset, `points` of a curve."""

    longest: int  # pixels of a picture's longer side
    quality: int  # of JPEG
    most: int
    points: int
    settings: bool = True  # the differences between configs
    classes: bool = True

    @property
    def said(self) -> str:
        """What a reader is told when there was no room for more."""
        pictures = f"{self.most} images a dataset, {self.longest} pixels" if self.most else "none"
        missing = [] if self.settings else ["differences between configs"]
        missing += [] if self.classes else ["figures of classes"]
        left_out = f"; left out: {', '.join(missing)}" if missing else ""
        return (
            f"To stay below {LIMIT / 1e6:.0f} MB this page shows less than it could: pictures "
            f"({pictures}), curves ({self.points} points){left_out}."
        )


LEVELS = (
    Detail(640, 84, 6, 240),
    Detail(512, 80, 4, 240),
    Detail(400, 74, 4, 120),
    Detail(320, 70, 2, 80),
    Detail(240, 64, 1, 50),
    Detail(0, 0, 0, 30),
    Detail(0, 0, 0, 10, settings=False, classes=False),
)


def render_page(
    tables: Sequence[Table],
    collected: Collected,
    curves: Mapping[str, Curves],
    benchmarks: Sequence[Benchmark],
    *,
    made: str = "",
    limit: int = LIMIT,
) -> tuple[str, list[str]]:
    """The page, and remarks that it shows too: what was left out or could not be read.

    Args:
        curves: by the labels of runs.
        made: when, for people.
        limit: bytes.

    Raises:
        ValueError: there are too many runs for a page.
    """
    size = 0
    for level, detail in enumerate(LEVELS):
        page, notes = _render(tables, collected, curves, benchmarks, detail, made, shrunk=level > 0)
        size = len(page.encode())
        if size <= limit:
            return page, notes
    raise ValueError(
        f"the page of {len(collected.runs)} runs would have {size / 1e6:.1f} MB, more than "
        f"{limit / 1e6:.1f}: report fewer folders at once"
    )


def _render(
    tables: Sequence[Table],
    collected: Collected,
    curves: Mapping[str, Curves],
    benchmarks: Sequence[Benchmark],
    detail: Detail,
    made: str,
    *,
    shrunk: bool,
) -> tuple[str, list[str]]:
    shown, remarks = galleries(
        tables, longest=detail.longest, quality=detail.quality, most=detail.most
    )
    notes = [detail.said] if shrunk else []
    for run in collected.runs:
        notes += [f"{run.label}: {remark}" for remark in run.remarks]
        damaged = curves[run.label].damaged
        if damaged:
            notes.append(f"{run.label}: {damaged} lines of metrics.json are damaged and left out")
    notes += [f"{item.label} is unreadable: {item.reason}" for item in collected.unreadable]
    notes += remarks
    style, script = (_part(name) for name in ("style.css", "page.js"))
    parts: dict[str, Any] = {
        "tables": tables,
        "learning": learning_curves(tables, curves, detail.points),
        "classes": class_tables(tables) if detail.classes else [],
        "speed": speeds(tables, curves, benchmarks),
        "galleries": shown,
        "differences": differences(tables) if detail.settings else [],
        "runs": collected.runs,
        "planned": collected.planned,
        "unreadable": collected.unreadable,
    }
    page = _environment(short_labels([run.label for run in collected.runs])).get_template(
        "report.html"
    )
    text = page.render(
        **parts,
        notes=notes,
        stated=STATED,
        made=made,
        num_runs=len(collected.runs),
        counts=_counts(tables, collected),
        sections=_sections(parts),
        ids={run.label: index for index, run in enumerate(collected.runs)},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )
    return text, notes


def short_labels(labels: Sequence[str]) -> dict[str, str]:
    """The last folder of each label, or all of it where another ends the same."""
    ends = Counter(label.rpartition("/")[2] for label in labels)
    return {x: x if ends[x.rpartition("/")[2]] > 1 else x.rpartition("/")[2] for x in labels}


def _environment(shorter: Mapping[str, str]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure_name,
        "short": lambda label: shorter.get(label, label),
        "bar": bar,
        "duration": duration,
        "cell": _cell,
    }
    return environment


def _cell(line: Line, name: str, table: Table) -> list[str]:
    return cell_texts(line.cells.get(name), table.published)


def duration(seconds: float) -> str:
    """ "3 h 05 min", "4 min 12 s", "8.5 s"; "" where it is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _counts(
    tables: Sequence[Table], collected: Collected
) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """Verdicts of the published rows, and what became of the runs: word, number, kind of dot."""
    verdicts = [line.verdict for table in tables for line in table.lines if line.verdict]
    words = Counter((verdict.word, verdict.kind) for verdict in verdicts)
    statuses = Counter(run.status for run in collected.runs)
    rows = [(word, count, kind) for (word, kind), count in words.items()]
    runs = [(status, count, status) for status, count in statuses.items()]
    runs += [("not started", len(collected.planned), "open")] if collected.planned else []
    runs += [("unreadable", len(collected.unreadable), "failed")] if collected.unreadable else []
    return [("Published rows", rows), ("Runs", runs)]


def _sections(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    others = [table for table in parts["tables"] if not table.published]
    wanted = (
        ("published", "Published", True),
        ("others", "Other runs", others),
        ("curves", "Curves", parts["learning"]),
        ("classes", "Classes", parts["classes"]),
        ("speed", "Speed", parts["speed"]),
        ("gallery", "Pictures", parts["galleries"]),
        ("differences", "Differences", parts["differences"]),
        ("runs", "Runs", True),
    )
    return [(key, title) for key, title, there in wanted if there]


def _part(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere, but pictures inside the page and these very texts."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src {hashes[0]}; script-src {hashes[1]}; "
        "base-uri 'none'; form-action 'none'"
    )


@dataclass(frozen=True)
class Report:
    """What was written, and what to know of it."""

    markdown: str
    files: Sequence[Path]
    notes: Sequence[str]


def make_report(folders: Sequence[Path], out: Path, *, made: str = "") -> Report:
    """Write report.md, .csv, .tex and .html of all runs below `folders` into `out`.

    Args:
        made: when, for people.

    Raises:
        ValueError: there are no runs, or too many for a page (the other files are written then).
        OSError: a file cannot be written; the one from before is as it was.
    """
    collected = collect(folders)
    benchmarks, unreadable = read_benchmarks(collected.runs)
    collected = Collected(collected.runs, [*collected.unreadable, *unreadable], collected.planned)
    tables = tables_of(collected)
    out.mkdir(parents=True, exist_ok=True)
    markdown = report_markdown(tables, collected)
    files = []
    for name, text in (
        ("report.md", markdown),
        ("report.csv", report_csv(tables)),
        ("report.tex", report_latex(tables)),
    ):
        files.append(_write(out / name, text))
    curves = {run.label: read_curves(run.folder / METRICS) for run in collected.runs}
    page, notes = render_page(tables, collected, curves, benchmarks, made=made)
    files.append(_write(out / "report.html", page))
    return Report(markdown, files, notes)


def tables_of(collected: Collected) -> list[Table]:
    """The published tables and all others, filled with the runs that were found."""
    return build_tables(group_runs(collected.runs), published_rows())


def _write(file: Path, text: str) -> Path:
    try:
        write_text(file, text)
    except OSError as error:  # a full disk does not name the file
        raise OSError(f"cannot write {file}: {error.strerror or error}") from error
    return file
