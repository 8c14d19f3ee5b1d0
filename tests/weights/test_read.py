"""Read weights files: nothing in them is run, and what is wrong with them is named."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.weights.files import SUFFIXES, read_weights, write_weights
from panoptic_dl.weights.load import load_model, load_to_train
from tests.weights.tiny_weights import Tiny, provenance, same


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil_was_run",)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pkl", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_malicious_files_are_refused_and_not_run(tmp_path, monkeypatch, name, how):
    monkeypatch.chdir(tmp_path)
    if how == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps({"model": Evil()}))
    else:
        torch.save({"model": Evil()}, tmp_path / name)
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)
    with pytest.raises(WeightsError, match=name):
        load_to_train(Tiny(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_missing_torn_and_empty_files(tmp_path):
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_model(Tiny(), tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="no such file"):
        read_weights(tmp_path / "none.pth")
    torch.save(Tiny().state_dict(), tmp_path / "torn.pth")
    whole = (tmp_path / "torn.pth").read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"torn\.pth"):
        read_weights(tmp_path / "torn.pth")
    for content in ({}, [], {"a": 1}, torch.zeros(2)):
        torch.save(content, tmp_path / "empty.pth")
        with pytest.raises(WeightsError, match="no parameters"):
            read_weights(tmp_path / "empty.pth")


def test_a_file_that_wraps_itself_is_refused(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="more than 8 wrappers"):
        load_model(Tiny(), tmp_path / "w.pth")


def test_names_in_a_file_move_no_cursor(tmp_path, caplog):
    caplog.set_level("INFO")
    odd = "a\x1b[2J\rforged\nline"
    torch.save(Tiny().state_dict() | {odd: 3}, tmp_path / "w.pth")
    load_model(Tiny(), tmp_path / "w.pth")
    assert "a?[2J?forged?line" in caplog.text
    assert "\x1b" not in caplog.text
    torch.save(Tiny().state_dict() | {odd: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"unexpected: a\?\[2J\?forged\?line"):
        load_model(Tiny(), tmp_path / "w.pth")


def test_damaged_provenance_is_an_error_and_its_text_is_harmless(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "w.pth"
    said = provenance(licence="a\x1b[2Jb\nERROR c" + "x" * 9999).plain()
    torch.save({"model": Tiny().state_dict(), "provenance": said}, file)
    load_model(Tiny(), file)
    assert "a?[2Jb?ERROR c" in caplog.text
    assert "x" * 4000 not in caplog.text
    for name, value in (
        ("source_size", "many"),
        ("pixel_mean", 3),
        ("licence", 5),
        ("percent", True),
        ("source_size", float("inf")),
        ("source_size", "1e999"),
        ("iteration", float("nan")),
        ("pixel_mean", "[" * 100000),
        ("percent", 10**400),
    ):
        torch.save({"model": Tiny().state_dict(), "provenance": said | {name: value}}, file)
        with pytest.raises(WeightsError, match=f"damaged: {name}"):
            load_model(Tiny(), file)
    del said["origin"]
    torch.save({"model": Tiny().state_dict(), "provenance": said}, file)
    with pytest.raises(WeightsError, match=r"damaged: .*origin"):
        load_model(Tiny(), file)


def test_two_wrappers_side_by_side_are_refused(tmp_path):
    torch.save({"model": Tiny().state_dict(), "state_dict": {}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="both `model` and `state_dict`"):
        load_model(Tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_torn_files_are_named(tmp_path, kind, share):
    file = tmp_path / f"w{kind}"
    write_weights(file, Tiny().state_dict(), provenance())
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=f"w{kind}"):
        read_weights(file)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_files_are_what_their_first_bytes_say_whatever_their_names(tmp_path, kind):
    source = Tiny()
    write_weights(tmp_path / f"w{kind}", source.state_dict(), provenance())
    for name in ("x.pth", "x.pkl", "checkpoint.pth.tar", "x.ckpt", "x.bin", "x"):
        (tmp_path / name).write_bytes((tmp_path / f"w{kind}").read_bytes())
        target = Tiny()
        load_model(target, tmp_path / name)
        assert same(source, target)


def test_pytorchs_old_format(tmp_path):
    source, target = Tiny(), Tiny()
    file = tmp_path / "w.pth.tar"
    torch.save(source.state_dict(), file, _use_new_zipfile_serialization=False)
    load_model(target, tmp_path / "w.pth.tar")
    assert same(source, target)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs\n", b"\x89HDF"]
)
def test_what_is_no_weights_is_named(tmp_path, content):
    for name in ("w.pth", "w.pth.tar", "w.safetensors", "w.h5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} is empty, truncated or"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00003.safetensors",
        "pytorch_model.bin.index.json",
        "__0_0.distcp",
        "mp_rank_00_model_states.pt",
    ],
)
def test_parts_of_a_checkpoint_are_told_from_one_that_does_not_fit(tmp_path, name):
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match=f"{name} is a part of a checkpoint in several files"):
        read_weights(tmp_path / name)


BESIDE = {
    "options": argparse.Namespace(lr=0.1, betas=[0.9]),
    "path": Path("a/b"),
    "number": np.float64(76.5),
    "array": np.arange(3),
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_data_of_other_kinds_beside_the_weights_is_not_looked_at(tmp_path, kind, is_zip):
    content = {"state_dict": Tiny().state_dict(), "more": BESIDE[kind]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    load_model(Tiny(), tmp_path / "w.pth")


def test_what_else_lies_beside_them_is_named_with_the_cure(tmp_path):
    torch.save({"model": Tiny().state_dict(), "more": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth holds posix\.system, .*save the weights alone"):
        read_weights(tmp_path / "w.pth")
    torch.save({"model": Tiny().state_dict(), "more": Tiny()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth holds tests\.weights\.tiny_weights\.Tiny,"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("key", ["net", "model_state_dict", "network.params"])
def test_parameters_lie_in_dicts_of_any_name_and_an_optimizers_state_beside_them(tmp_path, key):
    source, target = Tiny(), Tiny()
    optimizer = torch.optim.Adam(source.parameters())
    sum(parameter.sum() for parameter in source.parameters()).backward()
    optimizer.step()
    content = source.state_dict()
    for word in reversed(key.split(".")):
        content = {word: content}
    torch.save(content | {"epoch": 3, "optimizer": optimizer.state_dict()}, tmp_path / "w.pth")
    assert len(read_weights(tmp_path / "w.pth").tensors) == len(source.state_dict())
    load_model(target, tmp_path / "w.pth")
    assert same(source, target)
