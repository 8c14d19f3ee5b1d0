"""The id and the local files of W&B, keys, options, calls with a timeout, a missing package."""

import json
import struct
import time
import zlib
from unittest.mock import MagicMock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wandb.proto import wandb_internal_pb2

from panoptic_dl.config import compose
from panoptic_dl.loggers import wandb as ours
from panoptic_dl.loggers.base import Run, facts_of, run_id
from panoptic_dl.loggers.wandb import (
    WandbLogger,
    _has_key,
    _last_step,
    _read_records,
    _repair,
    _returns,
)

RECORD = {"format": 1, "status": "running", "attempts": [], "mode": "train"}
HEADER = b":W&B\xe1\xbe\x00"


def written(contents):
    """The format written by its description; the ends of the records in the bytes."""
    data, ends = bytearray(HEADER), []
    for content in contents:
        first = True
        while True:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            part, content = content[: left - 7], content[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                first, not content
            ]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
            if not content:
                break
        ends.append(len(data))
    return bytes(data), ends


sizes = st.one_of(
    st.integers(0, 50), st.integers(32_700, 32_800), st.integers(65_400, 65_600), st.just(200_000)
)


@given(st.lists(sizes, max_size=6), st.data())
@example([32768 - 7 - 7 - 6 - 9, 10], None)  # six bytes are left of the first block
def test_complete_and_torn_files(tmp_path_factory, lengths, draw):
    names = [str(n) * length for n, length in enumerate(lengths)]
    records = [wandb_internal_pb2.Record(run={"run_id": name}) for name in names]
    data, ends = written([record.SerializeToString() for record in records])
    file = tmp_path_factory.mktemp("run") / "run.wandb"
    file.write_bytes(data)
    assert [record.run.run_id for _, record in _read_records(file)] == names
    if draw is not None:
        cut = draw.draw(st.integers(0, len(data)))
        file.write_bytes(data[:cut])
        complete = sum(end <= cut for end in ends)
        assert [end for end, _ in _read_records(file)] == ends[:complete]


@given(st.binary(max_size=200))
def test_other_bytes_end_quietly(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("run") / "run.wandb"
    file.write_bytes(HEADER + data)
    list(_read_records(file))


def test_the_id_stays(tmp_path):
    known = run_id(tmp_path, "wandb.json")
    assert run_id(tmp_path, "wandb.json") == known
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": known}


@pytest.mark.parametrize("text", ["", "{}", '{"id": 3}', '{"id": "../x"}', '["id"]', '{"id": ""}'])
def test_a_damaged_id_is_named(tmp_path, text):
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(ValueError, match=r"wandb\.json is damaged; remove it"):
        run_id(tmp_path, "wandb.json")


@given(st.integers(0, 400_000))
def test_repaired_files_are_complete(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("run") / "run-abc.wandb"
    run = wandb_internal_pb2.Record(run={"run_id": "abc"}).SerializeToString()
    lines = [
        wandb_internal_pb2.Record(history={"step": {"num": n}, "item": [{"key": "x" * 9_000 * n}]})
        for n in range(9)
    ]
    data, ends = written([run, *(line.SerializeToString() for line in lines)])
    file.write_bytes(data[:cut])
    _repair([file])
    if cut < ends[0]:
        assert not file.exists()
    else:
        assert file.read_bytes() == data[: max(end for end in ends if end <= cut)]
        assert _last_step([file]) == sum(end <= cut for end in ends) - 2
    assert _last_step([]) == -1


def test_where_keys_are_looked_for(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = "https://api.example.org"
    assert not _has_key(server)
    file = tmp_path / "keys"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine api.example.org login user password " + "b" * 40)
    assert _has_key(server)
    assert not _has_key("https://elsewhere.org")
    file.write_text("machine {{ what")
    assert not _has_key(server)
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    assert _has_key(server)


@pytest.mark.parametrize("waits", [None, "offline-run-1", "timeout"])
def test_copies_of_checkpoints_are_removed_when_they_are_sent(tmp_path, monkeypatch, waits):
    monkeypatch.setattr(ours.wandb, "teardown", lambda exit_code: None)
    copy = tmp_path / "wandb" / "artifacts" / "staging" / "copy"
    copy.parent.mkdir(parents=True)
    copy.touch()
    if waits == "offline-run-1":
        (tmp_path / "wandb" / waits).mkdir()
    logger = WandbLogger(project="tests", name="tiny")
    logger._staging = str(tmp_path / "wandb")
    logger._run = MagicMock(_finish_timed_out=waits == "timeout")
    logger.finish("finished", 0)
    assert copy.exists() == bool(waits)


def test_results_and_errors_come_back():
    assert _returns(lambda: 3, 5)
    with pytest.raises(KeyError):
        _returns(lambda: {}[1], 5)
    with pytest.raises(TimeoutError, match="theirs"):  # and not ours
        _returns(raising(TimeoutError("theirs")), 5)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):  # which would end a run
        _returns(raising(SystemExit(3)), 5)
    started = time.perf_counter()
    assert not _returns(lambda: time.sleep(1), 0.1)
    assert time.perf_counter() - started < 1


def raising(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("option", "value"),
    [("log_checkpoints", "some"), ("mode", "ofline"), ("finish_timeout", 0)],
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"logger\.wandb\.{option}={value}"):
        WandbLogger(project="tests", name="tiny", **{option: value})


def test_a_missing_package_is_one_error(monkeypatch):
    monkeypatch.setattr(ours, "wandb", None)
    with pytest.raises(
        ValueError, match=r"logger=wandb needs .* pip install 'panoptic-dl\[wandb\]'"
    ):
        WandbLogger(project="tests", name="tiny")


def test_its_own_variables_count_unless_the_command_line_says_otherwise(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(ours.wandb, "init", lambda **options: given.update(options))

    def begin(*overrides):
        options = compose(["logger=wandb", *overrides]).logger.wandb
        names = {key: options[key] for key in ("project", "name", "group", "tags")}
        run = Run(tmp_path, "train")
        WandbLogger(**names)._init(run, facts_of(run), "id", "offline")
        return given["project"], given["name"], given["group"], given["tags"]

    (tmp_path / "run.json").write_text(json.dumps(RECORD | {"sweep": "table"}))
    name = compose().name
    assert begin() == ("panoptic-dl", name, "table", [])
    for key, value in (("PROJECT", "mine"), ("NAME", "n"), ("RUN_GROUP", "g"), ("TAGS", "a,b")):
        monkeypatch.setenv(f"WANDB_{key}", value)
    assert begin() == ("mine", "n", "g", ["a", "b"])
    typed = {"project": "p", "name": "m", "group": "h", "tags": "[c]"}
    assert begin(*(f"logger.wandb.{k}={v}" for k, v in typed.items())) == ("p", "m", "h", ["c"])
