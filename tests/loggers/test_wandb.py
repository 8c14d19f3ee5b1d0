"""The id and the local files of W&B, keys, options, and a missing package."""

import json
import struct
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wandb.proto import wandb_internal_pb2

from panoptic_dl.loggers import wandb as ours
from panoptic_dl.loggers.wandb import WandbLogger, has_key, last_step, repair, run_id, split_records
from tests.train.tiny_run import run_training

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
@example([32768 - 7 - 7 - 6, 10], None)  # six bytes are left of the first block
def test_complete_and_torn_files(lengths, draw):
    contents = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
    data, ends = written(contents)
    assert [r for _, r in split_records(data)] == contents
    if draw is not None:
        cut = draw.draw(st.integers(0, len(data)))
        assert [r for _, r in split_records(data[:cut])] == contents[
            : sum(end <= cut for end in ends)
        ]


@given(st.binary(max_size=200))
def test_other_bytes_end_quietly(data):
    list(split_records(HEADER + data))


def test_the_id_stays(tmp_path):
    known = run_id(tmp_path)
    assert run_id(tmp_path) == known
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": known}


@pytest.mark.parametrize("text", ["", "{}", '{"id": 3}', '{"id": "../x"}', '["id"]', '{"id": ""}'])
def test_a_damaged_id_is_named(tmp_path, text):
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(ValueError, match=r"wandb\.json is damaged; remove it"):
        run_id(tmp_path)


@given(st.integers(0, 400_000))
def test_repaired_files_are_complete(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    (folder / "wandb" / "run-20260101_000000-abc").mkdir(parents=True)
    file = folder / "wandb" / "run-20260101_000000-abc" / "run-abc.wandb"
    run = wandb_internal_pb2.Record(run={"run_id": "abc"}).SerializeToString()
    lines = [
        wandb_internal_pb2.Record(history={"step": {"num": n}, "item": [{"key": "x" * 9_000 * n}]})
        for n in range(9)
    ]
    data, ends = written([run, *(line.SerializeToString() for line in lines)])
    file.write_bytes(data[:cut])
    repair(folder, "abc")
    if cut < ends[0]:
        assert not file.exists()
    else:
        assert file.read_bytes() == data[: max(end for end in ends if end <= cut)]
    assert last_step(folder, "abc") == sum(end <= cut for end in ends) - 2 + (cut < ends[0])


def test_files_of_other_runs_do_not_count(tmp_path):
    assert last_step(tmp_path, "abc") == -1
    folder = tmp_path / "wandb" / "offline-run-20260101_000000-other"
    folder.mkdir(parents=True)
    (folder / "run-other.wandb").write_bytes(b"nothing that could be read")
    assert last_step(tmp_path, "abc") == -1


def test_where_keys_are_looked_for(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = "https://api.example.org"
    assert not has_key([server])
    file = tmp_path / "keys"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine api.example.org login user password " + "b" * 40)
    assert has_key([server])
    assert not has_key(["https://elsewhere.org"])
    file.write_text("machine {{ what")
    assert not has_key([server])
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    assert has_key([server])


@pytest.mark.parametrize(
    ("option", "value"),
    [("log_checkpoints", "some"), ("mode", "ofline"), ("finish_timeout", 0)],
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"logger\.wandb\.{option}={value}"):
        WandbLogger(project="tests", name="tiny", **{option: value})


def test_a_missing_package_leaves_the_logger_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ours, "wandb", None)
    run_training(
        tmp_path, iterations=2, loggers={"wandb": WandbLogger(project="tests", name="tiny")}
    )
    (warning,) = [r.getMessage() for r in caplog.records if "logger=wandb" in r.getMessage()]
    assert "left out from here on" in warning
    assert "wandb is not installed: pip install 'panoptic-dl[wandb]'" in warning
