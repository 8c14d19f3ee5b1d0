"""scripts/report.py ends with one message for bad input."""

import pytest

from scripts import report as script
from tests.report.run_folders import make_run


def report(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
    script.main()


def test_bad_input_is_one_clear_message(tmp_path, monkeypatch):
    for folder, message in ((tmp_path / "wrong", "is no folder"), (tmp_path, "no run.json below")):
        with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
            report(monkeypatch, folder, "--out", tmp_path / "out")
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^error: .*\S$"):
        report(monkeypatch, tmp_path / "run", "--out", tmp_path / "file")
