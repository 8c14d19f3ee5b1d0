"""Refresh docs/results.md, the repository's own results, from runs; nobody edits it by hand.

    python scripts/publish_docs.py outputs/toy  # adds its finished runs to docs/results.json
    python scripts/publish_docs.py              # makes the page anew from docs/results.json
    python scripts/publish_docs.py --check      # only says whether the page is up to date

A run replaces an earlier one of the same config and seed; --fresh forgets all earlier runs.
"""

import argparse
import sys
from pathlib import Path

from panoptic_dl.core.files import write_text
from panoptic_dl.report.publish import merged, read_records, records_text, results_page
from panoptic_dl.report.runs import collect
from panoptic_dl.report.tables import published_rows

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="the folder of results.json and .md"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the runs of before")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    try:
        publish(arguments.docs, arguments.folders, fresh=arguments.fresh, check=arguments.check)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def publish(docs: Path, folders: list[Path], *, fresh: bool, check: bool) -> None:
    """Raises ValueError for what cannot be read, or (`check`) for a page that is out of date."""
    data, page = docs / "results.json", docs / "results.md"
    records = [] if fresh else read_records(data)
    if folders:
        collected = collect(folders)
        for item in collected.unreadable:
            print(f"note: {item.label} is left out: {item.reason}", file=sys.stderr)
        for run in collected.runs:
            if not run.finished:
                print(f"note: {run.label} is left out: {run.status}", file=sys.stderr)
        records = merged(records, collected.runs)
    text = results_page(records, published_rows())
    if check:
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            raise ValueError(f"{page.name} is not what its data give: run `make results`")
        return
    write_text(data, records_text(records))
    write_text(page, text)
    print(f"{len(records)} runs: saved {data} and {page}")


if __name__ == "__main__":
    main()
