"""Checkpoints: whole or not at all, verified, bounded in number; a full disk loses nothing."""

import io
import json
import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from panoptic_dl.train.checkpoint import writing
from tests.train.tiny_run import (
    SCHEDULE,
    TinyModel,
    losses,
    run_training,
    same,
    state,
)


def full_disk(monkeypatch, *calls):
    """Writing stops in the middle in the n-th calls of torch.save for a file."""
    real, made = torch.save, []

    def save(contents, file):
        if isinstance(file, io.BytesIO):
            return real(contents, file)
        made.append(1)
        if len(made) in calls:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        return real(contents, file)

    monkeypatch.setattr(torch, "save", save)


def test_a_full_disk_stops_and_keeps_what_was_before(tmp_path, monkeypatch):
    full_disk(monkeypatch, 2)
    with pytest.raises(
        OSError, match=r"No space left on device\. Free some room\. .* untouched: resume=true"
    ):
        run_training(tmp_path)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert [p.name for p in tmp_path.glob("*.p*")] == ["model_0000001.pth"]
    monkeypatch.undo()
    run_training(tmp_path, resume=True)
    assert state(tmp_path)["iteration"] == 5


@pytest.mark.parametrize("free", [0, 100_000_000])
def test_room_for_what_will_be_kept_is_known_at_the_start(tmp_path, monkeypatch, caplog, free):
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    run_training(tmp_path / "warned", on_error="continue")
    assert ("has room for 0 bytes" in caplog.text) == (free == 0)
    if not free:
        with pytest.raises(OSError, match=r"room for 0 bytes.*checkpoint\.kept="):
            run_training(tmp_path / "refused")


def test_a_folder_that_is_gone_is_no_lack_of_room(tmp_path):
    file = tmp_path / "gone" / "a.pth"
    said = r"the folder .* is gone, removed or renamed$"
    with pytest.raises(OSError, match=said), writing("the checkpoint", file, "stop"):
        file.touch()


def test_training_goes_on_with_a_full_disk_when_told_so(tmp_path, monkeypatch, caplog):
    full_disk(monkeypatch, 1, 2)
    run_training(tmp_path / "some", on_error="continue")
    assert "No space left" in caplog.text
    assert "goes on (checkpoint.on_error=continue)" in caplog.text
    monkeypatch.undo()
    run_training(tmp_path / "whole")
    assert same(state(tmp_path / "whole"), state(tmp_path / "some"))


def test_the_last_checkpoint_must_be_written_whatever_is_told(tmp_path, monkeypatch):
    full_disk(monkeypatch, 3)
    with pytest.raises(OSError, match="No space left"):
        run_training(tmp_path, on_error="continue")


def test_what_does_not_read_back_is_not_taken(tmp_path, monkeypatch):
    run_training(tmp_path, iterations=2)
    before = (tmp_path / "model_0000001.pth").read_bytes()

    def lose(path):
        if path.suffix == ".pth":
            path.write_bytes(path.read_bytes()[:100])

    monkeypatch.setattr("panoptic_dl.core.files.flush", lose)
    with pytest.raises(OSError, match="does not read back"):
        run_training(tmp_path, iterations=4, resume=True)
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert not list(tmp_path.glob(".unfinished*"))


def tear(path, how):
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":  # the same size, one bit of a tensor
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        torch.save({"another": "file"}, path)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "foreign", "pipe"])
@pytest.mark.parametrize("manifest", [True, False])
def test_resuming_falls_back_past_torn_files(tmp_path, caplog, how, manifest):
    run_training(tmp_path / "whole", iterations=6)
    run_training(tmp_path / "parts", iterations=4, eval_at_end=False, schedule=SCHEDULE)
    folder = tmp_path / "parts"
    (folder / "model_final.pth").unlink()
    tear(folder / "model_0000003.pth", how)
    if not manifest:
        (folder / "checkpoints.json").write_text("{torn")
    if how == "flipped" and not manifest:
        pytest.skip("without its hash a flipped bit may go unseen")
    run_training(folder, iterations=6, resume=True)
    assert "model_0000003.pth is left out" in caplog.text
    assert same(state(tmp_path / "whole"), state(folder))
    assert losses(tmp_path / "whole") == losses(folder)
    assert (folder / "model_0000003.pth.torn").exists()


@pytest.mark.parametrize("file", ["last_checkpoint", "checkpoints.json"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_tag_or_manifest_does_not_matter(tmp_path, file, how):
    run_training(tmp_path, iterations=4)
    (tmp_path / file).unlink() if how == "missing" else (tmp_path / file).write_text("")
    run_training(tmp_path, iterations=6, resume=True)
    assert state(tmp_path)["iteration"] == 5
    entry = json.loads((tmp_path / "checkpoints.json").read_text())["files"]["model_final.pth"]
    assert entry["iteration"] == 5


def test_nothing_whole_is_an_error_and_never_a_new_start(tmp_path):
    run_training(tmp_path, iterations=2)
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(b"")
    for resume in (True, "auto"):
        with pytest.raises(ValueError, match=r"no checkpoint in .* is complete \(torn: model_"):
            run_training(tmp_path, iterations=4, resume=resume)
    with pytest.raises(ValueError, match="holds a run already"):
        run_training(tmp_path, iterations=4)


def test_a_checkpoint_killed_before_its_rename_is_ignored(tmp_path):
    run_training(tmp_path / "whole")
    run_training(tmp_path / "parts", iterations=4, schedule=SCHEDULE)
    (tmp_path / "parts" / ".unfinished.77.model_0000005.pth").write_bytes(b"half")
    run_training(tmp_path / "parts", resume=True)
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    assert not list((tmp_path / "parts").glob(".unfinished*"))


def test_a_file_killed_before_the_manifest_knew_it_is_taken(tmp_path):
    run_training(tmp_path, iterations=4, eval_at_end=False)
    manifest = json.loads((tmp_path / "checkpoints.json").read_text())
    for name in ("model_0000003.pth", "model_final.pth"):
        del manifest["files"][name]
    (tmp_path / "checkpoints.json").write_text(json.dumps(manifest))
    (tmp_path / "model_final.pth").unlink()
    run_training(tmp_path, iterations=6, resume=True)
    assert [line["iteration"] for line in losses(tmp_path)] == [*range(6)]


def test_code_in_a_checkpoint_is_not_run(tmp_path, caplog):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "evil"), "w")

    run_training(tmp_path, iterations=2)
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    torch.save({"model": Evil(), "iteration": 1}, tmp_path / "model_0000001.pth")
    (tmp_path / "checkpoints.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint"):
        run_training(tmp_path, resume=True)
    assert not (tmp_path / "evil").exists()


def test_another_model_or_optimizer_is_refused(tmp_path):
    run_training(tmp_path, iterations=2)
    other = TinyModel()
    other.head = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match="does not fit the run's model"):
        run_training(tmp_path, model=other, resume=True)
    with pytest.raises(ValueError, match="does not fit the run's trainer"):
        run_training(
            tmp_path,
            optimizer=lambda model: torch.optim.SGD(model.backbone.parameters(), lr=1.0),
            resume=True,
        )


def test_no_more_disk_than_one_copy_of_each_state(tmp_path):
    """`model_final` and `model_best` are names of numbered files, where the disk has links."""
    run_training(tmp_path, iterations=6, kept=1)
    inodes = {file.stat().st_ino for file in tmp_path.glob("*.pth")}
    assert len(list(tmp_path.glob("*.pth"))) == 3
    assert len(inodes) == 1


def test_copies_where_the_disk_has_no_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    run_training(tmp_path, iterations=2)
    assert same(state(tmp_path), state(tmp_path, "model_0000001.pth"))
    assert not list(tmp_path.glob(".unfinished*"))


def test_the_folder_of_a_run_logs_no_warning(tmp_path, caplog):
    run_training(tmp_path, iterations=2)
    run_training(tmp_path, iterations=4, resume=True)
    warned = [r.getMessage() for r in caplog.records if r.levelno > logging.WARNING]
    assert warned == []


def test_only_one_torn_checkpoint_is_kept(tmp_path):
    run_training(tmp_path, iterations=4, schedule=SCHEDULE, eval_at_end=False)
    (tmp_path / "model_0000009.pth.torn").write_bytes(b"old")
    (tmp_path / "model_final.pth").unlink()
    tear(tmp_path / "model_0000003.pth", "empty")
    run_training(tmp_path, resume=True, schedule=SCHEDULE)
    assert [p.name for p in tmp_path.glob("*.torn")] == ["model_0000003.pth.torn"]
