"""Exported files carry the figures of their own weights, and names that lead nowhere else."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from panoptic_dl.weights.export import figures, figures_of_average
from panoptic_dl.weights.read import LONGEST_METRICS, read_file, read_provenance

from .small import provenance
from .test_export import config, export, folder, note, note_average, states

__all__ = ["config", "export", "folder", "states"]  # fixtures


def test_the_figures_of_an_average_are_of_its_iteration_alone(tmp_path):
    assert figures_of_average(tmp_path, 6) == ""
    note_average(tmp_path, 6)
    assert json.loads(figures_of_average(tmp_path, 6)) == {"mIoU": 63.0}
    for iteration in (5, 7, -1):
        assert figures_of_average(tmp_path, iteration) == ""
    note_average(tmp_path, -1)
    assert figures_of_average(tmp_path, -1) == ""
    note_average(tmp_path, 6, no_result="fast_dev_run")
    assert figures_of_average(tmp_path, 6) == ""


def test_figures_are_known_by_contents_whatever_the_name(tmp_path):
    """The evaluation is noted for the numbered file; model_final is its second name."""
    final = {"sha256": "a"}
    numbered = {"sha256": "a", "figures": {"mIoU": 50.0, "PQ": float("nan")}}
    other = {"sha256": "b", "figures": {"mIoU": 99.0}}
    files = {"model_best.pth": other, "model_final.pth": final, "model_0000005.pth": numbered}
    (tmp_path / "checkpoints.json").write_text(json.dumps({"files": files}))
    assert json.loads(figures(tmp_path, "model_final.pth", "a")) == {"mIoU": 50.0}
    assert figures(tmp_path, "mine.pth", "c") == ""
    (tmp_path / "results.json").write_text('{"no_result": "fast_dev_run"}')
    assert figures(tmp_path, "model_final.pth", "a") == ""


def test_long_figures_stay_json_when_they_are_read(tmp_path):
    many = {f"figure {number} of many": 12.34 for number in range(1000)}
    (tmp_path / "checkpoints.json").write_text(
        json.dumps({"files": {"a.pth": {"sha256": "a", "figures": many}}})
    )
    text = figures(tmp_path, "a.pth", "a")
    assert 3000 < len(text) <= LONGEST_METRICS
    said = read_provenance(provenance(metrics=text).header())
    assert said
    assert json.loads(said.metrics).items() <= many.items()


def test_model_ema_is_an_average_without_figures(folder, export, states):
    torch.save({"model": states[1]}, folder / "model_ema.pth")
    file = export(folder, "--checkpoint", "model_ema.pth")
    assert "-ema-" in file.name
    said = read_file(file).provenance
    assert said
    assert "moving average of the weights" in said.row
    assert said.metrics == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("choice.head", "/../../../victim"),
        ("choice.head", "${oc.env:SECRET}"),
        ("choice.head", "a\n"),
        ("choice.head", 3),
        ("dataset.image_format", "${oc.env:SECRET}"),
        ("dataset.image_format", "GRB"),
        ("pixels.mean", "${oc.env:SECRET}"),
        ("pixels.std", ["${oc.env:SECRET}", 1, 1]),
    ],
)
def test_what_is_published_of_a_config_is_plain(folder, export, monkeypatch, key, value):
    monkeypatch.setenv("SECRET", "hidden")
    file = folder / ".hydra" / "config.yaml"
    changed = OmegaConf.load(file)
    OmegaConf.update(changed, key, value)
    OmegaConf.save(changed, file)
    with pytest.raises(SystemExit, match=key) as refused:
        export(folder)
    assert "hidden" not in str(refused.value)
    assert not list(folder.parent.rglob("*.safetensors"))


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1", "[" * 5000, "choice: {head: 1}", "3"])
def test_damaged_configs_are_named(folder, export, text):
    (folder / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(SystemExit, match=r"config\.yaml is"):
        export(folder)


def test_nobodys_file_is_in_the_way(folder, export):
    """The file is written under a fresh name before it is verified."""
    row = "toy_cityscapes_semantic_hrnet_tiny_conv"
    (folder / f"{row}.unverified.safetensors").write_text("precious")
    note(folder, "model_final.pth", {"mIoU": 1.0})
    export(folder)
    assert (folder / f"{row}.unverified.safetensors").read_text() == "precious"
    assert not list(folder.glob(".unverified*"))
