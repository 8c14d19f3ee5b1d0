"""Weights load completely or not at all, and opening a file never runs code."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.weights.load import load_model, load_model_or_backbone
from panoptic_dl.weights.read import read_weights

from .small import Tiny, same


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict"])
def test_pth_in_each_wrapping(tmp_path, wrap):
    source, target = Tiny(), Tiny()
    state = source.state_dict()
    torch.save(state if wrap == "plain" else {wrap: state, "iteration": 7}, tmp_path / "w.pth")
    load_model(target, tmp_path / "w.pth")
    assert same(source, target)


def test_safetensors(tmp_path):
    source, target = Tiny(), Tiny()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_model(target, tmp_path / "w.safetensors")
    assert same(source, target)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("counters", [True, False])
def test_a_backbone_alone_with_a_classifier_beside_it(tmp_path, prefix, counters):
    source, target = Tiny(), Tiny()
    state = {prefix + k: v for k, v in source.backbone.state_dict().items()}
    if not counters:
        del state[prefix + "1.num_batches_tracked"]
    if "backbone." not in prefix:
        state[prefix + "classifier.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    head = target.head.weight.clone()
    load_model_or_backbone(target, tmp_path / "w.pth")
    assert same(source.backbone, target.backbone)
    assert torch.equal(head, target.head.weight)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_incomplete_files_change_nothing_and_are_described(tmp_path, change):
    state, target = Tiny().state_dict(), Tiny()
    if change == "missing":
        del state["head.bias"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    else:
        state["head.weight"] = torch.zeros(2, 4)
    torch.save(state, tmp_path / "w.pth")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    named = {"missing": "1 missing: head.bias", "unexpected": "1 unexpected: extra.weight"}
    shape = r"1 of another shape: head.weight \(2, 4\) for \(2, 3\)"
    with pytest.raises(WeightsError, match=named.get(change, shape)):
        load_model(target, tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


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
        load_model_or_backbone(Tiny(), tmp_path / name)
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
