"""One wide CSV file of all figures, for spreadsheets and pandas: `figures.csv`.

A row is a line of metrics.json; a figure that it does not have is empty. Columns come in the order
in which they appear; a new one, such as those of the first evaluation, has the file written anew.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from panoptic_dl.core.files import write_text
from panoptic_dl.loggers.base import Details, Figures, Logger, Run, is_evaluation

FILE = "figures.csv"


class CsvLogger(Logger):
    """The figures of training, row by row; a run that goes on begins with the lines it has."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._rows: list[Figures] = []
        self._columns = ["iteration"]

    def start(self, run: Run) -> None:
        if run.mode != "train":  # results.csv has it all
            return
        self._file, self._rows = run.folder / FILE, list(run.history)
        for row in self._rows:
            self._add_columns(row)
        self._write_all()

    def step(self, iteration: int, figures: Figures) -> None:
        self._append({"iteration": iteration, **figures})

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        def is_replaced(row: Figures) -> bool:
            return row["iteration"] == iteration and is_evaluation(row)

        if any(map(is_replaced, self._rows)):  # as in metrics.json
            self._rows = [row for row in self._rows if not is_replaced(row)]
            self._write_all()
        self._append({"iteration": iteration, **figures})

    def _append(self, row: Figures) -> None:
        if self._file is None:
            return
        self._rows.append(row)
        if self._add_columns(row):
            self._write_all()
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_lines(self._columns, [row]))

    def _add_columns(self, row: Figures) -> bool:
        """Whether there were new ones."""
        new = [name for name in row if name not in self._columns]
        self._columns += new
        return bool(new)

    def _write_all(self) -> None:
        if self._file is not None:
            header = dict(zip(self._columns, self._columns, strict=True))
            write_text(self._file, _lines(self._columns, [header, *self._rows]))


def _lines(columns: Sequence[str], rows: Iterable[object]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()
