"""Make the report of runs: Markdown, CSV, LaTeX and one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_dl.whole_files import write_text

from .page.render import render_page
from .page.speed import read_benchmarks
from .runs.collect import Collected, collect
from .runs.curves import read_curves
from .runs.groups import group_runs
from .tables.build import Table, build_tables
from .tables.figures_csv import report_csv
from .tables.latex import report_latex
from .tables.markdown import report_markdown
from .tables.published import published_rows


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
    curves = {run.label: read_curves(run.folder / "metrics.json") for run in collected.runs}
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
