"""How an error ends a run: its message, its exit code, and its record in run.json."""

import contextlib
import copy
import errno
import io
import json
import logging
import os
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError
from torch import distributed, nn
from torch._utils import ExceptionWrapper
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from panoptic_dl.config import build
from panoptic_dl.core import run_folder
from panoptic_dl.core.classes import count_classes
from panoptic_dl.core.errors import (
    EvaluationError,
    UnreadableImageError,
    disk_error,
    message_for_user,
    one_line_errors,
    steady_text,
)
from panoptic_dl.core.files import RUN_LOCK, is_locked, local_path, release_lock, temporary_path
from panoptic_dl.core.parallel import size_text
from panoptic_dl.core.run_folder import ERROR, ExitCode, Requeued, RunState, read_run
from panoptic_dl.launch import launcher
from panoptic_dl.launch import session as session_module
from panoptic_dl.launch.session import session
from panoptic_dl.launch.signals import Interrupted

FACTS = {"name": "row", "mode": "train"}


def state_of(folder):
    return json.loads((folder / "run.json").read_text())


def attempt(folder, action=lambda state: None, **facts):
    state = RunState(str(folder), writes=True)
    with session(str(folder), state):
        state.begin(FACTS | facts)
        if state.waits:
            state.accept()
        action(state)


def raising(error):
    def action(*_):
        raise error

    return action


def test_a_finished_run(tmp_path):
    def work(state):
        assert state_of(tmp_path)["status"] == "running"
        state.note(environment={"devices": 4, "processes": 4})
        state.note(metrics=run_folder.as_json({"PQ": 50.0, "AP": float("nan")}))
        time.sleep(0.05)

    attempt(tmp_path, work)
    state = state_of(tmp_path)
    assert state["format"] == 1
    assert (state["name"], state["status"], state["error"]) == ("row", "finished", None)
    assert state["metrics"] == {"PQ": 50.0, "AP": None}
    (only,) = state["attempts"]
    assert only["status"] == "finished"
    assert state["wall_seconds"] == only["seconds"] >= 0.05
    assert state["device_hours"] == pytest.approx(4 * only["seconds"] / 3600, abs=1e-6)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("no such thing: x=1\nsecond line"), "failed", "no such thing: x=1"),
        (FloatingPointError("a loss is NaN"), "failed", "a loss is NaN"),
        (KeyboardInterrupt(), "stopped", None),
        (SystemExit(ExitCode.SAVED), "stopped", None),
        (RuntimeError("my own"), "failed", "RuntimeError: my own"),
        (torch.OutOfMemoryError("CUDA"), "failed", "memory ran out: take fewer images at once"),
    ],
)
def test_a_run_that_does_not_finish(tmp_path, error, status, message):
    with pytest.raises(BaseException):  # noqa: B017, PT011
        attempt(tmp_path, raising(error))
    state = state_of(tmp_path)
    assert state["status"] == status
    assert str(state["error"]).startswith(str(message))
    assert state["attempts"][-1]["status"] == status
    assert (tmp_path / "error.txt").is_file() == (status == "failed")


def test_an_old_message_is_not_that_of_a_new_failure(tmp_path):
    with pytest.raises(SystemExit):
        attempt(tmp_path, raising(ValueError("old")))
    with pytest.raises(SystemExit):
        attempt(tmp_path, raising(SystemExit(3)))
    assert state_of(tmp_path)["error"] == "ended with exit code 3, without a message"


def test_attempts_add_up_and_a_killed_one_ends_with_its_log(tmp_path):
    first = RunState(str(tmp_path), writes=True)
    first.begin(FACTS)
    assert is_locked(tmp_path / RUN_LOCK)
    with pytest.raises(SystemExit):
        attempt(tmp_path, name="intruder")  # while the first is under way
    assert (state_of(tmp_path)["name"], state_of(tmp_path)["status"]) == ("row", "running")
    assert read_run(tmp_path)["status"] == "running"
    release_lock(first._lock)  # as the end of a process does
    assert not is_locked(tmp_path / RUN_LOCK)
    assert read_run(tmp_path)["status"] == "killed"
    (tmp_path / "log.txt").touch()
    os.utime(tmp_path / "log.txt", (time.time() + 100, time.time() + 100))
    attempt(tmp_path)
    killed, second = state_of(tmp_path)["attempts"]
    assert killed["status"] == "killed"
    assert 95 < killed["seconds"] < 125
    assert killed["ended"] > killed["started"]
    total = killed["seconds"] + second["seconds"]
    assert state_of(tmp_path)["wall_seconds"] == pytest.approx(total)


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    def full(target, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_text", full)
    done = []
    attempt(tmp_path, lambda state: done.append(1))
    assert done == [1]
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"attempts": 3}', '{"attempts": [1]}', '{"attempts": []}'),
        '{"status": "finished", "attempts": [{}]}',
        '{"status": "finished", "attempts": [], "metrics": {"PQ": "x"}}',
    ],
)
def test_a_damaged_record_begins_anew(tmp_path, text, caplog):
    (tmp_path / "run.json").write_text(text)
    attempt(tmp_path)
    assert state_of(tmp_path)["status"] == "finished"
    assert "is damaged" in caplog.text


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


TEXTS = {"config.yaml": "a: 1\n", "overrides.yaml": "- a=1\n"}


def start(folder, texts, **facts):
    state = RunState(str(folder), writes=True)
    state.begin(FACTS | facts, texts)
    state.write_resolved("b: 1\n")
    return state


def attempt_that_waits(folder, error):
    state = RunState(str(folder), writes=True)
    with session(str(folder), state):
        state.begin(FACTS, {"config.yaml": "a: 2\n"})
        state.note(environment={"devices": 9})
        state.write_resolved("b: 2\n")
        raise error


def test_a_start_that_is_refused_leaves_a_run_byte_for_byte_as_it_was(tmp_path, capsys):
    start(tmp_path, TEXTS).end("finished")
    (tmp_path / "failed.txt").touch()
    before = contents(tmp_path)
    assert (tmp_path / ".hydra" / "resolved.yaml") in before
    for error in (ValueError("no"), RuntimeError("a fault")):
        with pytest.raises(SystemExit):
            attempt_that_waits(tmp_path, error)
    assert contents(tmp_path) == before
    said = capsys.readouterr().err
    assert "error: no\n" in said
    assert "error.txt" not in said


@pytest.mark.parametrize("record", [None, "{"])
def test_checkpoints_without_a_record_are_a_run_as_well(tmp_path, record):
    start(tmp_path, TEXTS).end("finished")
    (tmp_path / "last_checkpoint").touch()
    for name, text in (("run.json", record), (RUN_LOCK, None)):
        (tmp_path / name).unlink()
        if text is not None:
            (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(SystemExit):
        attempt_that_waits(tmp_path, ValueError("no"))
    assert contents(tmp_path) == before
    evaluation = start(tmp_path, {"config.yaml": "a: 3\n"}, mode="eval")
    evaluation.accept()
    evaluation.end("finished")
    after = contents(tmp_path)
    assert {file: after.get(file) for file in before} == before
    assert (tmp_path / "run.json") not in after or record


def test_the_config_is_that_of_the_attempt_that_was_accepted_last(tmp_path):
    start(tmp_path, TEXTS).end("finished")
    for _ in range(2):
        other = start(tmp_path, TEXTS | {"config.yaml": "a: 2\n"})
        other.accept()
        other.end("finished")
    place = tmp_path / ".hydra"
    assert (place / "config.yaml").read_text() == "a: 2\n"
    (old,) = (file for file in place.iterdir() if file.is_dir())
    kept = {file.name: file.read_text() for file in old.iterdir()}
    assert kept == TEXTS | {"resolved.yaml": "b: 1\n"}
    (place / "config.yaml").write_text("a: ")  # torn
    evaluation = start(tmp_path, {"config.yaml": "a: 3\n"}, mode="eval")
    evaluation.accept()
    evaluation.end("finished")
    assert (place / "config.yaml").read_text() == "a: "
    start(tmp_path, TEXTS).accept()
    assert (place / "config.yaml").read_text() == "a: 1\n"


@pytest.mark.parametrize("name", ["config.yaml", "resolved.yaml"])
def test_without_room_for_its_config_a_run_does_not_begin(tmp_path, monkeypatch, name):
    start(tmp_path, TEXTS).end("finished")
    before = contents(tmp_path)
    real = Path.write_text

    def full(path, *arguments, **options):
        if path.name.endswith(name):
            real(path, "half")
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    state = start(tmp_path, {"config.yaml": "a: 2\n"})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left.*config\.yaml"):
        state.accept()
    assert contents(tmp_path) == before


def test_the_log_waits_for_acceptance(tmp_path):
    """All processes of a run have lines, and a logger of three names writes each once."""
    (tmp_path / "run.json").write_text("{}")
    log = logging.getLogger("panoptic_dl.x")
    config = OmegaConf.create({"run_dir": str(tmp_path), "seed": 0, "launch": {"requeue": False}})

    def mode():
        log.warning("before")
        assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
        if refused:
            raise ValueError("no")
        session_module.accept()
        log.warning("after")
        assert (tmp_path / "log.txt").read_text().count("\n") == 3
        return {}

    refused = True
    for _ in range(2):
        state = RunState(str(tmp_path), writes=False)
        with contextlib.suppress(SystemExit):
            session_module.call_mode(config, "cpu", mode, state)
        refused = False
    text = (tmp_path / "log.txt").read_text()
    assert re.findall("Running on|before|after", text) == ["Running on", "before", "after"]
    assert (tmp_path / "environment.txt").is_file()


def test_the_console_gets_lines_that_are_not_drawn_on_the_output_of_the_moment(tmp_path, capsys):
    """A bar replaces sys.stdout while it is drawn, so that lines appear above it."""
    session_module._begin(str(tmp_path), 0, "cpu", [])
    log = logging.getLogger("panoptic_dl.x")
    log.info("plain")
    log.info("below a bar", extra={"is_drawn": True})
    with contextlib.redirect_stdout(io.StringIO()) as replaced:
        log.info("above a bar")
    out = capsys.readouterr().out
    assert "plain" in out
    assert "bar" not in out
    assert "above a bar" in replaced.getvalue()


TRAINED = {"metrics": {"PQ": 67.178, "SQ": 76.0}, "best": "best PQ 67.18 (iteration 350)"}
LAST_WORDS = [
    (
        "train.train.train",
        TRAINED | {"iterations": 350},
        ["model_final.pth", "model_best.pth", "log.txt"],
        """Finished training, 350 iterations, in 0:04:52
  metrics  PQ 67.18  SQ 76  best PQ 67.18 (iteration 350)
  files    outputs/a: model_best.pth, model_final.pth, log.txt
  next     python run.py mode=demo weights=outputs/a input=PHOTO_OR_FOLDER
  curves   tensorboard --logdir outputs/a""",
    ),
    (
        "modes.evaluate.evaluate",
        {"metrics": {"PQ": 67.178, "AP": None}, "num_images": 40},
        ["results.md", "pictures/worst.png"],
        """Finished evaluation, 40 images, in 0:04:52
  metrics  PQ 67.18
  files    outputs/a: results.md, pictures
  next     python scripts/report.py outputs/a
  look at  outputs/a/pictures/worst.png""",
    ),
    (
        "modes.benchmark.benchmark",
        {"metrics": {"total ms": 12.0}},
        ["benchmark.json", "benchmark.png"],
        """Finished benchmark, in 0:04:52
  metrics  total ms 12
  files    outputs/a: benchmark.json
  next     python scripts/report.py outputs/a
  look at  outputs/a/benchmark.png""",
    ),
    (
        "modes.export.export",
        {"metrics": {"semantic": 0.0}},
        ["model.onnx"],
        """Finished export, in 0:04:52
  files    outputs/a: model.onnx
  next     python run.py mode=demo weights=outputs/a/model.onnx input=PHOTO_OR_FOLDER
  serve    python scripts/serve.py outputs/a/model.onnx""",
    ),
    (
        "demo.demo.demo",
        {"metrics": {"images/s": 2.5}},
        ["demo/panoptic/a.jpg"],
        """Finished demo, in 0:04:52
  files    outputs/a: demo
  next     python run.py mode=export weights=outputs/b
  look at  outputs/a/demo""",
    ),
]


@pytest.mark.parametrize(("function", "results", "files", "words"), LAST_WORDS)
def test_a_run_ends_with_what_it_made_and_a_useful_command(
    tmp_path, monkeypatch, function, results, files, words
):
    monkeypatch.chdir(tmp_path)
    for name in files:
        file = tmp_path / "outputs" / "a" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    config = OmegaConf.create(
        {
            "mode": {"_target_": f"panoptic_dl.{function}"},
            "run_dir": str(tmp_path / "outputs" / "a"),
            "weights": "outputs/b",
            "logger": {"tensorboard": {}},
            "train": {"fast_dev_run": False, "iterations": 1},
        }
    )
    assert session_module._last_words(config, results, 292.3).rstrip() == words
    config.train.fast_dev_run = True
    config.weights = "outputs/b/model.onnx"
    changed = session_module._last_words(config, results, 292.3)
    assert (changed == "") == (function == "train.train.train")
    if function == "demo.demo.demo":
        assert "next     python scripts/serve.py outputs/b/model.onnx" in changed
    config.mode._target_ = "mine.of_my_own"
    assert session_module._last_words(config, results, 292.3) == ""


def test_commands_are_those_of_an_installed_package(tmp_path, monkeypatch):
    config = {"mode": {"_target_": "panoptic_dl.modes.evaluate.evaluate"}, "run_dir": "a b"}
    monkeypatch.setattr(session_module, "PROGRAM", "panoptic-dl")
    words = session_module._last_words(OmegaConf.create(config), {}, 1.0)
    assert "panoptic-dl report 'a b'" in words


def test_other_code_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "git", lambda *commands: ["a" * 40 + "\n", ""])
    assert start(tmp_path, TEXTS).remarks == []
    monkeypatch.setattr(run_folder, "git", lambda *commands: ["b" * 40 + "\n", ""])
    (tmp_path / RUN_LOCK).unlink()
    (remark,) = start(tmp_path, TEXTS).remarks
    assert "aaaa" in remark
    assert "bbbb" in remark


def test_other_modes_leave_the_record_of_a_training_alone(tmp_path):
    attempt(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    attempt(tmp_path, mode="eval")
    assert (tmp_path / "run.json").read_bytes() == before


def test_only_one_process_writes(tmp_path):
    state = RunState(str(tmp_path), writes=False)
    with session(str(tmp_path), state):
        state.begin(FACTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("no such key"), ExitCode.ERROR, "error: no such key\n(traceback: "),
        (OSError(28, "No space left"), ExitCode.ERROR, "No space left"),
        (FloatingPointError("a loss is NaN"), ExitCode.DIVERGED, "error: a loss is NaN"),
        (Interrupted(15), ExitCode.SAVED, ""),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted; run_dir="),
        (ProcessExitedException("", 0, 1, 3), 3, ""),
        (SystemExit(5), 5, ""),
    ],
)
def test_exit_codes_and_messages(tmp_path, capsys, error, code, text):
    (tmp_path / "last_checkpoint").touch()
    with pytest.raises(SystemExit) as stop, session(str(tmp_path)):
        raise error
    assert stop.value.code == code
    message = capsys.readouterr().err
    assert text in message if text else not message


def test_requeued_jobs_pass_on(tmp_path, capsys):
    with pytest.raises(Requeued), session(str(tmp_path)):
        raise Requeued(0)
    assert not capsys.readouterr().err


def ended(folder, capsys, action):
    """What is on the screen after an error."""
    with pytest.raises(SystemExit) as stop, session(str(folder)):
        action()
    assert stop.value.code == ExitCode.ERROR
    assert "Traceback" in (folder / "error.txt").read_text()
    return capsys.readouterr().err


def test_a_fault_of_ours_shows_its_traceback_and_that_it_is_ours(tmp_path, capsys):
    """Raised here by a library that our code has called in a way that it should not."""
    said = ended(tmp_path, capsys, lambda: count_classes(None))
    assert said.startswith("Traceback")
    assert "error: TypeError: object of type 'NoneType' has no len()\nThis is a fault of" in said
    assert said.endswith(f"error.txt, log.txt and .hydra/ of {tmp_path}\n")


def in_loader_process(action):
    """As a DataLoader passes on what is raised in one of its processes."""
    try:
        action()
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    wrapper.reraise()


@pytest.mark.parametrize("around", [lambda action: action(), in_loader_process])
@pytest.mark.parametrize(
    "action",
    [
        lambda: size_text("x"),  # which compares it
        lambda: temporary_path(Path("/")),  # which pathlib refuses to rename
    ],
)
def test_errors_that_libraries_raise_in_our_code_are_faults_of_ours(around, action):
    with pytest.raises((ValueError, TypeError)) as caught:
        around(action)
    assert message_for_user(caught.value) is None


@pytest.mark.parametrize("around", [lambda action: action(), in_loader_process])
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (partial(local_path, "s3://a/b", "weights"), "weights=s3://a/b is a URL"),
        (raising(ValueError("mine")), "mine"),
        (raising(UnreadableImageError("a.png: cut")), "a.png: cut"),
        (
            lambda: int("x"),
            "ValueError: invalid literal for int()",
        ),
        (raising(OSError(28, "No space left", "/x")), "No space left"),
        (raising(InterpolationKeyError("key 'a' not found\n    full_key: b")), "key 'a' not found"),
    ],
)
def test_what_people_have_to_mend_is_their_message(around, action, message):
    with pytest.raises((ValueError, OSError, InterpolationKeyError)) as caught:
        around(action)
    said = message_for_user(caught.value)
    assert said is not None
    assert message in said.partition("\n")[0]
    assert "Traceback" not in said


def test_a_script_ends_with_one_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: /x: No space left\. Free some room and run"):
        one_line_errors()(raising(OSError(28, "No space left", "/x")))()
    with pytest.raises(SystemExit, match=r"^error: mine$"), one_line_errors():
        raise ValueError("mine")
    with pytest.raises(SystemExit, match=r"^130$"), one_line_errors():
        raise KeyboardInterrupt
    script = one_line_errors()(lambda: count_classes(None))
    fault = r"^Traceback(.|\n)*\nerror: TypeError(.|\n)*\nThis is a fault of .* with these lines$"
    with pytest.raises(SystemExit, match=fault):
        script()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(TypeError):
        script()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            lambda: nn.Linear(2, 2)(torch.ones(3)),
            r"RuntimeError: .*in <lambda>, .*/test_session\.py,",
        ),
        (raising(ModuleNotFoundError("No module named 'a'")), r"'a'; .*pip install 'panoptic-dl\["),
        (raising(MemoryError()), r"memory ran out.*train\.images_per_gpu"),
        (
            partial(build, {"_target_": "torch.nn.Dropout", "p": "x"}),
            r"while building .*Dropout\(p\)",
        ),
    ],
)
def test_what_is_not_a_fault_of_ours_is_one_message(tmp_path, capsys, action, message):
    said = ended(tmp_path, capsys, action)
    assert re.match(rf"\nerror: .*{message}", said, re.DOTALL)
    assert "Traceback" not in said
    assert "This is a fault" not in said


@pytest.mark.parametrize(
    ("processes", "text", "is_known"),
    [
        (
            2,
            "[third_party/gloo/transport/tcp/pair.cc:538] Connection closed by peer",
            True,
        ),
        (1, "NCCL", False),
    ],
)
def test_the_other_processes_of_a_run_that_fails_do_not_take_it_for_their_fault(
    monkeypatch, processes, text, is_known
):
    monkeypatch.setattr(session_module.comm, "get_world_size", lambda: processes)
    said = message_for_user(RuntimeError(text))
    assert (said or "").startswith("another process of the run is lost") == is_known


KILLED = "DataLoader worker (pid 5) is killed by signal: Killed. "


def wrapped():
    try:
        raise RuntimeError(KILLED)
    except RuntimeError as error:
        raise EvaluationError("an official script cannot work with these files") from error


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (raising(RuntimeError(KILLED)), r"mostly memory ran out.*num_workers.*pid 5"),
        (wrapped, r"mostly memory ran out.*num_workers.*pid 5"),
        (raising(RuntimeError("DataLoader worker (pid(s) 5, 6) exited unexpectedly")), "5, 6"),
        (raising(RuntimeError(KILLED.replace("Killed", "Bus error"))), "/dev/shm is full"),
        (raising(RuntimeError(KILLED.replace("Killed", "Segmentation fault"))), "crashed"),
    ],
)
def test_a_killed_loader_process_is_named_whatever_it_interrupted(
    tmp_path, capsys, action, message
):
    said = ended(tmp_path, capsys, action)
    assert re.match(rf"\nerror: a loader process died, .*{message}", said)
    assert "Traceback" not in said


IN_A_CHILD = """

-- Process 0 terminated with the following error:
Traceback (most recent call last):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 5082, in barrier
    work = group.barrier(opts=opts)
           ^^^^^^^^^^^^^^^^^^^^^^^^
torch.distributed.DistBackendError: NCCL error in: x.cpp:77, unhandled system error
ncclSystemError: System call (e.g. socket, malloc) or external library call failed
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            r"memory ran out: .*train\.images_per_gpu=1, .*train\.activation_checkpointing=true, "
            r".*train\.precision=bf16 \(OutOfMemoryError: CUDA out",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory ran out: take fewer"),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available"),
            r"this torch does not fit the GPU or its driver: docs/start/install\.md",
        ),
        (RuntimeError("The NVIDIA driver on your system is too old"), "this torch does not fit"),
        (
            torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
            r"the GPU has failed; resume=true goes on.*Xid.*\(AcceleratorError: CUDA error: unc",
        ),
        (distributed.DistBackendError("NCCL error: Duplicate GPU"), ".*cannot reach.*NCCL_DEBUG"),
        (
            ProcessRaisedException(IN_A_CHILD, 0, 1),
            r"the processes of the run cannot reach each other: NCCL_DEBUG=INFO before the command "
            r"says more.* \(ProcessRaisedException: torch\.distributed\.DistBackendError: NCCL",
        ),
    ],
)
def test_errors_of_devices_are_one_message_with_what_to_do(tmp_path, capsys, error, message):
    with pytest.raises(SystemExit) as stop:
        attempt(tmp_path, raising(error))
    assert stop.value.code == ExitCode.ERROR
    said = capsys.readouterr().err
    assert re.match(f"\nerror: {message}", said), said
    assert "fault of panoptic-dl" not in said
    assert "Traceback" in (tmp_path / ERROR).read_text()
    assert re.match(message, state_of(tmp_path)["error"])


def test_an_index_that_is_out_of_range_on_a_gpu_is_no_failure_of_the_gpu():
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    assert message_for_user(error) is None


def test_too_few_open_files_are_named(tmp_path, capsys):
    for error in (OSError(24, "Too many open files"), RuntimeError("received 0 items of ancdata")):
        said = ended(tmp_path, capsys, raising(error))
        assert re.match(r"\nerror: a process may have \d+ files open.*ulimit -n", said)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "strategy"),
    [
        (1024, 4096, 4096, "file_system"),  # a descriptor for each tensor would not do
        (1024, 2**20, session_module.OPEN_FILES, None),
        (1024, -1, session_module.OPEN_FILES, None),
        (2**20, 2**20, None, None),
        (-1, -1, None, None),
    ],
)
def test_the_limit_of_open_files_is_raised(monkeypatch, soft, hard, wanted, strategy):
    limits, chosen = [], []
    monkeypatch.setattr(session_module.resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(
        session_module.resource, "setrlimit", lambda kind, pair: limits.append(pair)
    )
    monkeypatch.setattr(torch.multiprocessing, "set_sharing_strategy", chosen.append)
    session_module._allow_open_files()
    assert limits == ([] if wanted is None else [(wanted, hard)])
    assert chosen == ([] if strategy is None else [strategy])


def test_a_killed_process_of_several_is_one_message_and_a_code_of_the_table(tmp_path, capsys):
    killed = ProcessExitedException("", 1, 77, -9, "SIGKILL")
    with pytest.raises(SystemExit) as stop:
        attempt(tmp_path, raising(killed))
    assert stop.value.code == ExitCode.ERROR
    said = capsys.readouterr().err
    assert said.startswith("\nerror: process 1 of the run was ended by SIGKILL: mostly memory")
    assert (tmp_path / ERROR).read_text().startswith("error: process 1 of the run")
    assert state_of(tmp_path)["error"].startswith("process 1 of the run was ended by")


def test_errors_of_an_attempt_that_another_process_has_accepted_are_recorded(tmp_path, monkeypatch):
    """Of several processes the first accepts, in its own copy of the parent's object."""
    attempt(tmp_path)
    state = RunState(str(tmp_path), writes=True)

    def resume():
        with session(str(tmp_path), state):
            state.begin(FACTS)
            copy.copy(state).accept()
            raise ProcessExitedException("", 1, 77, -9, "SIGKILL")

    with pytest.raises(SystemExit):
        resume()
    assert state.waits
    assert (tmp_path / ERROR).read_text().startswith("error: process 1 of the run")
    assert (tmp_path / RUN_LOCK).exists()
    (tmp_path / ERROR).unlink()
    config = OmegaConf.create({"run_dir": str(tmp_path), "seed": 0, "launch": {"requeue": False}})
    monkeypatch.setattr(session_module.comm, "get_rank", lambda: 1)

    def mode():
        session_module.accept()
        raise ValueError("a torn image")

    with pytest.raises(SystemExit):
        session_module.call_mode(config, "cpu", mode, RunState(str(tmp_path), writes=False))
    assert "a torn image" in (tmp_path / ERROR).read_text()


def test_who_misses_another_process_does_not_replace_what_that_one_said(tmp_path, monkeypatch):
    monkeypatch.setattr(session_module.comm, "get_world_size", lambda: 2)
    for error in (ValueError("why"), RuntimeError("gloo: Connection closed by peer")):
        with pytest.raises(SystemExit), session(str(tmp_path)):
            raise error
    assert "ValueError: why" in (tmp_path / ERROR).read_text()


def test_no_file_is_named_that_could_not_be_written(tmp_path, capsys):
    with pytest.raises(SystemExit), session(str(tmp_path / "gone")):
        raise ValueError("mine")
    assert capsys.readouterr().err == "\nerror: mine\n"


@pytest.mark.parametrize(
    ("number", "inodes", "said"),
    [
        (errno.ENOSPC, 9, "Free some room"),
        (errno.ENOSPC, 1, "no inodes"),
        (errno.EDQUOT, 9, "quota"),
        (errno.EROFS, 9, "Mount that disk"),
        (errno.ENAMETOOLONG, 9, "shorter names"),
    ],
)
def test_what_happened_on_a_disk_is_said(tmp_path, monkeypatch, number, inodes, said):
    found = SimpleNamespace(f_files=9, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda place: found)
    error = OSError(number, os.strerror(number), str(tmp_path / "x"))
    text = message_for_user(error)
    assert text.startswith(f"{tmp_path / 'x'}: {os.strerror(number)}. ")
    assert said in text
    assert "and run the same command again" in text
    assert "is gone" in disk_error(error, tmp_path / "gone" / "x")


def test_output_that_takes_nothing_ends_nothing(capfd):
    read, write = os.pipe()
    os.close(read)
    for target in (write, "/dev/full", "/dev/full"):
        with steady_text(target) as file:
            print("a line", file=file, flush=True)
            print("another", file=file, flush=True)
    os.close(write)
    said = capfd.readouterr().err
    assert said.count("note: /dev/full is cut: No space left on device") == 2
    assert len(said.splitlines()) == 2


def test_a_mode_that_examines_gets_to_know_why_processes_cannot_start(monkeypatch):
    mode = {"launch_refused": None}
    config = OmegaConf.create({"mode": mode, "launch": {"num_gpus": 64}})
    start = partial(session_module.start, lambda device, config, allowed: config.mode)
    assert start(config, ()).launch_refused.startswith("launch.num_gpus=64, but this machine has")
    del config.mode.launch_refused
    with pytest.raises(ValueError, match=r"launch\.num_gpus=64"):
        start(config, ())

    def refuse(number):
        if number:
            raise ValueError("a V100")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(launcher, "check_gpus", refuse)
    config = OmegaConf.create({"mode": mode, "launch": {"num_gpus": None}})
    assert start(config, ()).launch_refused == "a V100"


def test_a_second_training_leaves_the_folder_of_the_first_alone(tmp_path, capsys):
    first, second = (RunState(str(tmp_path), writes=True) for _ in range(2))
    first.begin(FACTS)
    there = contents(tmp_path)
    for mode in ("train", "eval"):
        with pytest.raises(SystemExit), session(str(tmp_path), second):
            second.begin(FACTS | {"mode": mode})
        assert "is in use by another process" in capsys.readouterr().err
    assert contents(tmp_path) == there
    (tmp_path / ERROR).touch()  # of an evaluation that ended here meanwhile
    first.end("finished")
    assert not (tmp_path / ERROR).exists()
