"""figures.csv says what metrics.json says."""

import csv
import json

import pytest

from panoptic_dl.loggers.csv import CsvLogger
from tests.train.tiny_run import Dying, Killed, TinyEvaluation, run_training


def equals_metrics(folder):
    with (folder / "figures.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [{k: float(v) for k, v in row.items() if v != ""} for row in reader]
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert repr([sorted(row.items()) for row in rows]) == (
        repr([sorted((k, float(v)) for k, v in line.items()) for line in lines])
    )
    return reader.fieldnames, rows


def test_all_lines_are_there_and_columns_are_added(tmp_path):
    evaluation = TinyEvaluation(10.0, float("nan"))
    run_training(tmp_path, evaluation=evaluation, eval_period=4, loggers={"csv": CsvLogger()})
    columns, rows = equals_metrics(tmp_path)
    assert columns[0] == "iteration"
    assert columns.index("PQ") > columns.index("total_loss")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 3, 4, 5, 5]
    assert next(row["PQ"] for row in rows if "PQ" in row) == 10.0


def test_killed_and_resumed(tmp_path):
    options = {"iterations": 9, "eval_period": 5}
    with pytest.raises(Killed):
        run_training(tmp_path, model=Dying(7), loggers={"csv": CsvLogger()}, **options)
    with (tmp_path / "figures.csv").open("a") as file:
        file.write("7,0.")  # torn
    run_training(tmp_path, resume=True, loggers={"csv": CsvLogger()}, **options)
    equals_metrics(tmp_path)


def test_begun_later_and_evaluated_again(tmp_path):
    run_training(tmp_path, iterations=3, evaluation=TinyEvaluation(10.0))
    assert not (tmp_path / "figures.csv").exists()
    options = {"iterations": 3, "resume": True, "loggers": {"csv": CsvLogger()}}
    run_training(tmp_path, evaluation=TinyEvaluation(20.0), **options)
    _, rows = equals_metrics(tmp_path)
    assert [row["PQ"] for row in rows if "PQ" in row] == [20.0]
