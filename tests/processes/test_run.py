"""run.py as a user starts it: in two processes, interrupted, and in a sweep."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from panoptic_dl.core.parallel import count_cores
from tests.runs import ENVIRONMENT, ROOT, SMALL, in_process, run


def test_two_processes_train_evaluate_and_agree_on_the_figures(tmp_path, toy):
    done = run(
        *SMALL,
        *toy["toy_cityscapes"],
        "launch.num_cpu_processes=2",
        f"run_dir={tmp_path}",
        timeout=300,
        # As users start it: conftest.py sets the number of threads for tests.
        env={k: v for k, v in ENVIRONMENT.items() if k != "OMP_NUM_THREADS"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    share = max(1, count_cores() // 2)
    assert f"(2 processes, {share} CPU threads each)" in (tmp_path / "log.txt").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_images"] == 2
    assert "layers use SyncBatchNorm (2 processes)" in (tmp_path / "log.txt").read_text()
    # The processes hold the same weights: what the file says is what either evaluates to.
    again = in_process(
        tmp_path / "eval",
        *SMALL,
        *toy["toy_cityscapes"],
        "mode=eval",
        f"weights={tmp_path / 'model_final.pth'}",
    )
    assert again["metrics"]["mIoU"] == pytest.approx(results["metrics"]["mIoU"], abs=1e-6)


@pytest.mark.parametrize(
    ("number", "num_workers"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 0)],
    ids=["Ctrl-C in a terminal", "scancel"],
)
def test_an_interrupted_run_resumes(tmp_path, toy, number, num_workers):
    command = [*SMALL, *toy["toy_cityscapes"], f"run_dir={tmp_path}", "train.iterations=300"]
    command.append(f"train.num_workers={num_workers}")
    process = subprocess.Popen(
        [sys.executable, "run.py", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    metrics = tmp_path / "metrics.json"
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, number)
    started = time.monotonic()
    output = process.communicate(timeout=120)[0]
    assert time.monotonic() - started < 20, "workers held up the end"
    assert process.returncode == 75, output
    assert "resume=true" in output
    assert "Traceback" not in output
    done = int((tmp_path / "last_checkpoint").read_text()[len("model_") : -len(".pth")])
    results = in_process(
        tmp_path, *SMALL, *toy["toy_cityscapes"], f"train.iterations={done + 2}", "resume=true"
    )
    assert results["num_images"] == 2
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [x["iteration"] for x in lines if "total_loss" in x] == list(range(done + 2))


def test_sweeps_run_every_combination(tmp_path, toy):
    sweep = ["-m", "head=conv,dsconv", f"hydra.sweep.dir={tmp_path}"]
    done = run(*sweep, *SMALL, *toy["toy_cityscapes"], timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(p.parent.name for p in tmp_path.glob("*/results.json"))
    names = [f"toy_cityscapes_panoptic_hrnet_tiny_{head}" for head in ("conv", "dsconv")]
    assert folders == names
