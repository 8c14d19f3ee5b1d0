"""Logger that writes one wide CSV file for spreadsheets and pandas: `figures.csv`.

A row is a line of metrics.json; a number that it does not have is empty. Columns come in the order
in which they appear; for a new one, such as those of the first evaluation, the file is rewritten.
"""

import csv
import io
from pathlib import Path
from typing import TextIO

from panoptic_dl.core.files import write_text
from panoptic_dl.loggers.base import Details, Logger, Metrics, Run, is_evaluation

FILE = "figures.csv"


class CsvLogger(Logger):
    """Writes the metrics of mode=train row by row; a resumed run begins with the earlier lines."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._rows: list[Metrics] = []
        self._columns: list[str] = []

    def start(self, run: Run) -> None:
        if run.mode == "train":  # of others results.csv has it all
            self._file, self._rows = run.folder / FILE, list(run.history)
            self._write_all(self._file)

    def step(self, iteration: int, metrics: Metrics) -> None:
        if self._file is None:
            return
        row = {"iteration": iteration, **metrics}
        self._rows.append(row)
        if row.keys() <= set(self._columns):
            with self._file.open("a", encoding="utf-8") as file:
                self._writer(file).writerow(row)
        else:
            self._write_all(self._file)

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        kept = [r for r in self._rows if r["iteration"] != iteration or not is_evaluation(r)]
        if self._file is not None and len(kept) < len(self._rows):
            self._rows = kept  # done again: the later one counts, as in metrics.json
            self._write_all(self._file)
        self.step(iteration, metrics)

    def _write_all(self, target: Path) -> None:
        self._columns = list(dict.fromkeys(["iteration", *(n for row in self._rows for n in row)]))
        text = io.StringIO()
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(target, text.getvalue())

    def _writer(self, file: TextIO) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
