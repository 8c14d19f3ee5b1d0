"""SIGKILL before any operation on the files of a run: the next attempt makes up for it."""

import hashlib
import json
import logging
import os
import signal
import sys

import pytest

from tests.train.tiny_run import run_training, same, state

FIGURES = {2: 10.0, 4: 60.0, 6: 58.0}  # the best in the middle
WATCHED = ("open", "os.rename", "os.link", "os.remove")
killing = {"folder": "", "count": 0, "at": -1}


def watch(event, arguments):
    """An audit hook: ends this process before the n-th operation that changes a file."""
    if not killing["folder"] or event not in WATCHED:
        return
    reads = event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    )
    name = str(arguments[0])
    if reads or not name.startswith(killing["folder"]) or "events.out" in name:
        return
    killing["count"] += 1
    if killing["count"] == killing["at"]:
        os.kill(os.getpid(), signal.SIGKILL)


def evaluation(model, folder, *, source):
    folder.mkdir(parents=True, exist_ok=True)
    return {"metrics": {"PQ": FIGURES[source["iteration"]]}, "num_images": 1}


def attempt(folder, kill_at):
    """Train in a forked process; return its wait status and how many operations it made."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            logging.disable(logging.CRITICAL)
            sys.addaudithook(watch)
            killing.update(folder=str(folder), count=0, at=kill_at)
            options = {"eval_period": 2, "period": 3, "kept": 2, "ema": 0.9}
            run_training(folder, resume="auto", evaluation=evaluation, **options)
            os.write(writer, str(killing["count"]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(reader) as pipe:
        return status, int(pipe.read() or 0)


def lines(folder):
    """All figures but times, and none twice."""
    found = {}
    for line in map(json.loads, (folder / "metrics.json").read_text().splitlines()):
        for name, value in line.items():
            if name not in ("time", "data_time", "images_per_s", "host_memory_MiB", "iteration"):
                assert (line["iteration"], name) not in found
                found[line["iteration"], name] = repr(value)
    return found


def files(folder):
    """Names, but that of the lock: it goes with the process that made it, if that is not killed."""
    names = {file.name for file in folder.iterdir() if "events.out" not in file.name}
    return names - {".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    status, count = attempt(folder, -1)
    assert status == 0
    assert count > 60
    return folder, count


@pytest.mark.parametrize(
    "offset", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 6))]
)
def test_the_next_attempt_ends_like_a_run_that_was_left_alone(whole, tmp_path, offset):
    reference, count = whole
    for kill_at in range(1 + offset, count + 1, 6):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        assert attempt(folder, kill_at)[0] == signal.SIGKILL
        assert attempt(folder, -1)[0] == 0, kill_at
        for name in ("model_final.pth", "model_best.pth"):
            assert same(state(reference, name), state(folder, name)), (kill_at, name)
        assert lines(folder) == lines(reference), kill_at
        assert files(folder) == files(reference), kill_at
        manifest = json.loads((folder / "checkpoints.json").read_text())["files"]
        assert manifest.keys() == {n for n in files(folder) if n.endswith(".pth")} - {
            "model_ema.pth"
        }
        for name, entry in manifest.items():
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            assert entry["sha256"] == digest, (kill_at, name)
