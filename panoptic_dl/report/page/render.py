"""One HTML file of at most five megabytes from all that was found of runs."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from panoptic_dl.report.runs.collect import Collected
from panoptic_dl.report.runs.curves import Curves
from panoptic_dl.report.tables.build import Line, Table
from panoptic_dl.report.tables.names import figure_name
from panoptic_dl.report.tables.text import cell_texts
from panoptic_dl.report.tables.verdict import STATED

from .charts import bar
from .classes import class_tables
from .differences import differences
from .learning import learning_curves
from .pictures import galleries
from .speed import Benchmark, speeds

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
