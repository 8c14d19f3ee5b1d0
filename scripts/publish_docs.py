"""Refresh docs/reference/results.md, the repository's own results, from runs.

Nobody edits the page by hand.

    python scripts/publish_docs.py outputs/toy  # adds its finished runs to results.json
    python scripts/publish_docs.py              # makes the page anew from it
    python scripts/publish_docs.py --check      # only says whether the page is up to date

A run replaces an earlier one of the same config and seed; --fresh forgets all earlier runs.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path, read_json_object, write_text
from panoptic_dl.core.run_folder import Fields
from panoptic_dl.report.formats import table_markdown
from panoptic_dl.report.runs import MEASURING, Group, Run, collect, run_from_record
from panoptic_dl.report.tables import STATED, Table, build_tables
from panoptic_dl.report.text import duration

DOCS = Path(__file__).parents[1] / "docs" / "reference"
FORMAT = 1  # of results.json
PATH = re.compile(r"(?<![\w./])(?:~|[A-Za-z]:)?[/\\][^\s,'\"\]}]+")  # an absolute one
HEAD = """<!-- Made by `make results` from its results.json and conf/experiment; never edit it. -->

# Results

Metrics are percentages. An empty cell was not measured; n/a could not be decided by any image;
± is the standard deviation over n seeds. `make results ARGS="FOLDER..."` adds the finished runs
below folders to `docs/reference/results.json` and makes this page anew."""


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=local_path, metavar="FOLDER")
    parser.add_argument(
        "--docs", type=local_path, default=DOCS, help="the folder of results.json and .md"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the runs of before")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    publish(arguments.docs, arguments.folders, fresh=arguments.fresh, check=arguments.check)


def publish(docs: Path, folders: list[Path], *, fresh: bool, check: bool) -> None:
    """Raises ValueError for what cannot be read, or (`check`) for a page that is out of date."""
    data, page = docs / "results.json", docs / "results.md"
    records, benchmarks = ([], []) if fresh else (read_records(data), read_benchmarks(data))
    if folders:
        collected = collect(folders)
        for label, reason in collected.unreadable:
            print(f"note: {label} is left out: {reason}", file=sys.stderr)
        for run in collected.runs:
            if not run.finished:
                print(f"note: {run.label} is left out: {run.status}", file=sys.stderr)
        records = merged(records, collected.runs)
        measured = {(b["row"], b["network"]): b for b in [*benchmarks, *collected.benchmarks]}
        benchmarks = [*measured.values()]
    text = results_page(records, benchmarks)
    if check:
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            raise ValueError(f"{page.name} is not what its data give: run `make results`")
        return
    write_text(data, records_text(records, benchmarks))
    write_text(page, text)
    print(f"{len(records)} runs: saved {data} and {page}")


def results_page(
    records: Sequence[Mapping[str, Any]], benchmarks: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page.

    Args:
        records: the finished runs, as `as_record` makes them.
        benchmarks: see `panoptic_dl.report.runs.Collected`.

    Raises:
        ValueError: a record is none.
    """
    runs = [as_run(record, f"results.json: runs[{i}]") for i, record in enumerate(records)]
    tables = build_tables(runs, benchmarks, all_published=True)
    published = [table for table in tables if table.published]
    others = [table for table in tables if not table.published]
    was_run = sum(line.group is not None for table in published for line in table.lines)
    count = sum(len(table.lines) for table in published)
    state = (
        f"{was_run} of {count} rows have been run."
        if was_run
        else "None of these rows has been run by this project yet: own metrics are empty."
    )
    parts = [HEAD, "## The published tables", f"{state} Verdicts: {STATED}"]
    parts += [table_markdown(with_facts(table), runs=False) for table in published]
    parts.append("## What else has been run")
    if others:
        parts.append(
            "Toys, samples of real data, and data of one's own: these show that everything works, "
            "and say nothing about the tables above."
        )
    else:
        parts.append("Nothing.")
    parts += [table_markdown(with_facts(table), runs=False) for table in others]
    return "\n\n".join(parts) + "\n"


def with_facts(table: Table) -> Table:
    """The table with notes on its runs: how long they took, on which machine, when."""
    lines = [
        replace(line, notes=[*_facts(line.group), *line.notes]) if line.group else line
        for line in table.lines
    ]
    return replace(table, lines=lines)


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
    took = duration(run.wall_seconds)
    facts.append(f"{run.device or 'unknown machine'}{f', {took}' if took else ''}")
    facts += [run.when[:10]] if run.when else []
    if run.revision:
        facts.append(f"revision {run.revision[:10]}{' with changes' if run.changed else ''}")
    return facts


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a file; none where there is no file.

    Raises:
        ValueError: it is damaged, or of another format.
    """
    if not file.exists():
        return []
    data = read_json_object(file)
    if data.get("format") != FORMAT:
        raise ValueError(f"{file.name} has format {data.get('format')!r}, not {FORMAT}")
    return [dict(fields.data) for fields in Fields(data, file.name).objects("runs")]


def read_benchmarks(file: Path) -> list[dict[str, Any]]:
    """The benchmarks of a file that `read_records` has read, as `Collected` has them."""
    if not file.exists():
        return []
    return [
        {"row": each.text("row", required=True), "network": frozenset(each.texts("network"))}
        | {key: each.text(key) for key in ("machine", "size")}
        | {key: each.number(key) for key in ("parameters", "GMACs", "images_per_s")}
        | {key: each.number(key) for key in ("device_MiB", "host_MiB")}
        for each in Fields(read_json_object(file), file.name).objects("benchmarks")
    ]


def merged(old: Sequence[dict[str, Any]], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Records with the finished ones of `runs`, which replace those of the same config and seed."""
    found = {_key(record): record for record in old}
    for run in sorted(runs, key=lambda run: run.when):
        if run.finished and run.mode in MEASURING and run.metrics:
            record = as_record(run)
            found[_key(record)] = record
    return sorted(found.values(), key=lambda r: (r["row"], r["name"], r["mode"], str(r["seed"])))


def records_text(
    records: Sequence[Mapping[str, Any]], benchmarks: Sequence[Mapping[str, Any]]
) -> str:
    """The file's content."""
    found = [
        {k: _number(v) if isinstance(v, float) else v for k, v in benchmark.items()}
        | {"network": sorted(map(without_paths, benchmark["network"]))}
        for benchmark in benchmarks
    ]
    content = {"format": FORMAT, "runs": records, "benchmarks": found}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    same = (record["row"], record["mode"], record["family"], record["seed"])
    return same if record["seed"] is not None else (*same, record["date"], record["wall_seconds"])


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def without_paths(text: str) -> str:
    return PATH.sub("PATH", text)


def as_record(run: Run) -> dict[str, Any]:
    """A finished run as JSON holds it."""
    return {
        "name": without_paths(run.name or run.label),
        "mode": run.mode,
        "row": run.row,
        "choices": {k: without_paths(v) for k, v in sorted(run.choices.items())},
        "overrides": [without_paths(override) for override in run.overrides],
        "command": without_paths(run.command),
        "seed": run.seed,
        "family": run.family,
        "revision": run.revision,
        "changed": run.changed,
        "environment": {
            key: without_paths(str(value)) if isinstance(value, str) else value
            for key, value in sorted(run.environment.items())
        },
        "train": dict(sorted(run.train.items())),
        "published_note": run.published_note or None,
        "date": run.when[:10],
        "wall_seconds": _number(run.wall_seconds),
        "device_hours": _number(run.device_hours),
        "metrics": {name: _number(value) for name, value in run.metrics.items()},
        "dataset": run.results.get("dataset"),
        "num_images": run.results.get("num_images"),
        "measured": {k: run.measured[k] for k in ("scales", "flip") if k in run.measured}
        | ({"predictions": run.files} if run.files else {}),
        "no_result": run.results.get("no_result") or run.trial or None,
    }


def as_run(record: Mapping[str, Any], where: str) -> Run:
    """A run that gives the same tables as the one that was recorded.

    Raises:
        ValueError: the record is damaged; the message begins with `where`.
    """
    fields = Fields(record, where)
    keys = ("dataset", "num_images", "measured", "no_result")
    return run_from_record(
        fields,
        folder=Path(),
        label=fields.text("name", required=True),
        status="finished",
        when=fields.text("date"),
        results={key: record[key] for key in keys if record.get(key) is not None},
    )


if __name__ == "__main__":
    main()
