"""docs/results.md: published figures, and what has been run of them and of all else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from panoptic_dl.report.page.render import duration
from panoptic_dl.report.runs.groups import Group, group_runs
from panoptic_dl.report.tables.build import Line, Table, build_tables
from panoptic_dl.report.tables.markdown import table_markdown
from panoptic_dl.report.tables.published import PublishedRow
from panoptic_dl.report.tables.verdict import STATED

from .record import as_run

HEAD = """<!-- Made by `make results` from docs/results.json and conf/experiment; never edit it. -->

# Results

Figures are percentages. An empty cell was not measured; n/a could not be decided by any image;
± is the standard deviation over n seeds. `make results ARGS="FOLDER..."` adds the finished runs
below folders to docs/results.json and makes this page anew."""


def results_page(records: Sequence[Mapping[str, Any]], rows: Sequence[PublishedRow]) -> str:
    """The page.

    Raises:
        ValueError: a record is none.
    """
    runs = [as_run(record, f"results.json: runs[{i}]") for i, record in enumerate(records)]
    tables = build_tables(group_runs(runs), rows)
    published = [table for table in tables if table.published]
    others = [table for table in tables if not table.published]
    was_run = sum(line.group is not None for table in published for line in table.lines)
    count = sum(len(table.lines) for table in published)
    state = (
        f"{was_run} of {count} rows have been run."
        if was_run
        else "None of these rows has been run by this project yet: own figures are empty."
    )
    parts = [HEAD, "## The published tables", f"{state} Verdicts: {STATED}"]
    parts += [table_markdown(_with_facts(table), level=3, runs=False) for table in published]
    parts.append("## What else has been run")
    if others:
        parts.append(
            "Toys, samples of real data, and data of one's own: these show that everything works, "
            "and say nothing about the tables above."
        )
    else:
        parts.append("Nothing.")
    parts += [table_markdown(_with_facts(table), level=3, runs=False) for table in others]
    return "\n\n".join(parts) + "\n"


def _with_facts(table: Table) -> Table:
    """With what one wants to know of a figure beneath it: how long, where, when."""
    return replace(table, lines=[_line(line) for line in table.lines])


def _line(line: Line) -> Line:
    if line.group is None:
        return line
    return replace(line, notes=[*_facts(line.group), *line.notes])


def _facts(group: Group) -> list[str]:
    run = group.first
    facts = []
    iterations, batch = run.train.get("iterations"), run.train.get("batch_size")
    if run.mode == "train" and isinstance(iterations, int):
        facts.append(f"{iterations:,} iterations of {batch} in {run.train.get('precision')}")
    if len(group.runs) == 1 and run.seed is not None:
        facts.append(f"seed {run.seed}")
    if run.results.get("num_images"):
        facts.append(f"measured on {run.results['num_images']} images")
    device, devices = run.environment.get("device"), run.environment.get("devices")
    times = f"{devices} x " if isinstance(devices, int) and devices > 1 else ""
    took = duration(run.wall_seconds)
    facts.append(f"{times}{device or 'unknown machine'}{f', {took}' if took else ''}")
    facts += [run.when[:10]] if run.when else []
    if run.revision:
        facts.append(f"revision {run.revision[:10]}{' with changes' if run.changed else ''}")
    return facts
