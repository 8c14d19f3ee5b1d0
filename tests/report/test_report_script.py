"""scripts/report.py as a user starts it."""

import subprocess
import sys
from pathlib import Path

from .run_folders import make_run

ROOT = Path(__file__).parents[2]


def report(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/report.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_tables_are_printed_and_files_named(tmp_path):
    make_run(tmp_path / "runs" / "good")
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "metrics.json").write_text("")
    done = report(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "| Xception-65 | good |" in " ".join(done.stdout.split())
    assert "note: old is unreadable: it has no run.json" in done.stderr
    for kind in ("md", "csv", "tex", "html"):
        assert f"saved {tmp_path}/out/report.{kind}" in done.stdout


def test_bad_input_is_one_clear_message(tmp_path):
    for folder, message in ((tmp_path / "wrong", "is no folder"), (tmp_path, "no run.json below")):
        done = report(folder, "--out", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    done = report(tmp_path / "run", "--out", tmp_path / "file")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_report_does_not_wait_for_torch():
    code = (
        "import sys, panoptic_dl.report.page, panoptic_dl.report.publish;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
