"""Collect runs into a report: report.html, and the tables as .md, .csv and .tex.

    python scripts/report.py outputs/sweeps/cityscapes_panoptic_conv --out outputs/report

Folders are searched for runs, which know themselves by their run.json. The page is one file that
opens without a network. Runs that cannot be read are named in it, with the reason.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path, visible
from panoptic_dl.report.page import make_report
from panoptic_dl.report.runs import MOMENT


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=local_path, metavar="FOLDER")
    parser.add_argument("--out", type=local_path, default=Path("outputs/report"), metavar="DIR")
    parser.add_argument("--published", action="store_true", help="also published rows not run")
    parser.add_argument("--columns", default="", help="such as PQ,mIoU,params,ms; all by default")
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
