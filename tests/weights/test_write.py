"""Write weights: whole or not at all, for us and for Detectron2."""

import os
import resource
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.weights.files import SUFFIXES, read_weights, write_weights
from panoptic_dl.weights.load import load_model
from tests.weights.tiny_weights import Tiny, provenance, same


@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_kind_keeps_values_types_and_provenance(tmp_path, kind):
    state = Tiny().state_dict() | {"half": torch.ones(2).half(), "view": torch.arange(9.0)[3:5]}
    said = provenance(row="a_b_c_d", iteration=9, revision="f" * 40, metrics='{"PQ": 50.0}')
    file = tmp_path / f"w{kind}"
    write_weights(file, state, said)
    read = read_weights(file)
    assert read.provenance == said
    assert read.size == file.stat().st_size
    assert read.tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read.tensors[name], tensor), name
        assert read.tensors[name].dtype == tensor.dtype, name
    assert os.listdir(tmp_path) == [file.name]
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode  # readable for whom other files are


@pytest.mark.parametrize("kind", [".pkl", ".pth"])
def test_detectron2_loads_our_files_by_exact_names(tmp_path, kind):
    """Its matching by likeness would load names without their beginning as well."""
    source, target = Tiny(), Tiny()
    write_weights(tmp_path / f"w{kind}", source.state_dict(), provenance())
    DetectionCheckpointer(target).load(str(tmp_path / f"w{kind}"))
    assert same(source, target)
    other = {name.partition(".")[2]: value for name, value in source.state_dict().items()}
    write_weights(tmp_path / f"o{kind}", other, provenance())
    untouched = Tiny()
    before = {name: value.clone() for name, value in untouched.state_dict().items()}
    DetectionCheckpointer(untouched).load(str(tmp_path / f"o{kind}"))
    assert all(torch.equal(v, before[n]) for n, v in untouched.state_dict().items())


def test_a_file_that_is_there_is_kept_unless_it_may_go(tmp_path):
    file = tmp_path / "w.pth"
    file.write_text("precious")
    with pytest.raises(WeightsError, match="--overwrite"):
        write_weights(file, Tiny().state_dict(), provenance())
    assert file.read_text() == "precious"
    write_weights(file, Tiny().state_dict(), provenance(), overwrite=True)
    load_model(Tiny(), file)


@pytest.mark.parametrize(
    ("name", "message"),
    [("w.bin", ".safetensors"), ("none/w.pth", "no folder"), ("d.pth", "folder")],
)
def test_targets_that_cannot_be(tmp_path, name, message):
    (tmp_path / "d.pth").mkdir()
    with pytest.raises(WeightsError, match=message):
        write_weights(tmp_path / name, Tiny().state_dict(), provenance(), overwrite=True)


def test_numbers_that_detectron2s_kind_cannot_hold(tmp_path):
    with pytest.raises(WeightsError, match=r"write \.pth"):
        write_weights(tmp_path / "w.pkl", {"a": torch.ones(1).bfloat16()}, provenance())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_full_disk_leaves_what_was_there(tmp_path, kind):
    """The limit on a file's size fails in the middle of writing, as a full disk does."""
    file = tmp_path / f"w{kind}"
    file.write_text("precious")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {file}"):
            write_weights(file, {"a": torch.zeros(100_000)}, provenance(), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "precious"
    assert os.listdir(tmp_path) == [file.name]


def test_what_was_there_is_whole_until_the_new_file_takes_its_name(tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    file.write_text("precious")

    def fails(self, target):
        raise OSError("no more")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="cannot write"):
        write_weights(file, Tiny().state_dict(), provenance(), overwrite=True)
    assert file.read_text() == "precious"
    assert os.listdir(tmp_path) == [file.name]
