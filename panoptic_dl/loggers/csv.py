"""Logger that writes one wide CSV file for spreadsheets and pandas: `figures.csv`.

A row is a line of metrics.json; a number that it does not have is empty. Columns come in the order
in which they appear; for a new one, such as those of the first evaluation, the file is rewritten.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from panoptic_dl.core.files import write_text
from panoptic_dl.loggers.base import Details, Logger, Metrics, Run, is_evaluation

FILE = "figures.csv"


class CsvLogger(Logger):
    """Writes the metrics of mode=train row by row; a resumed run begins with the earlier lines."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._rows: list[Metrics] = []
        self._columns = ["iteration"]

    def start(self, run: Run) -> None:
        if run.mode != "train":  # results.csv has it all
            return
        self._file, self._rows = run.folder / FILE, list(run.history)
        for row in self._rows:
            self._add_columns(row)
        self._write_all()

    def step(self, iteration: int, metrics: Metrics) -> None:
        if self._file is None:
            return
        row = {"iteration": iteration, **metrics}
        self._rows.append(row)
        if self._add_columns(row):
            self._write_all()
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_lines(self._columns, [row]))

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        kept = [r for r in self._rows if r["iteration"] != iteration or not is_evaluation(r)]
        if len(kept) < len(self._rows):  # done again: the later one counts, as in metrics.json
            self._rows = kept
            self._write_all()
        self.step(iteration, metrics)

    def _add_columns(self, row: Metrics) -> bool:
        """Return whether there were new ones."""
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
