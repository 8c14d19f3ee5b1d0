"""Export a run's weights: what the file is called and says, and what is refused."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.core.files import sha256_of
from panoptic_dl.weights.files import MAX_TEXT, _read_provenance, read_weights
from panoptic_dl.weights.load import load_model
from scripts import export_weights
from scripts.export_weights import metrics_of_average, metrics_of_checkpoint, read_revision
from tests.weights.tiny_weights import provenance

pytestmark = pytest.mark.thorough

HEAD = 40 * "a"
GIT = (
    f"# 2026-01-01 00:00:00\n$ git rev-parse HEAD\n{HEAD}\n$ git status --short\n$ git diff HEAD\n"
)


@pytest.fixture(scope="module")
def config():
    small = ["head.aspp_channels=16", "head.semantic.decoder_dim=16", "dataset.crop_size=[64,64]"]
    return compose(["backbone=hrnet_tiny", "dataset=toy_cityscapes", "task=semantic", *small])


@pytest.fixture(scope="module")
def states(config):
    torch.manual_seed(0)
    return [build(config.task.model).state_dict() for _ in range(2)]


@pytest.fixture
def folder(tmp_path, config, states):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    optimizer = {"state": {0: {"exp_avg": torch.zeros(1000)}}, "param_groups": [{"lr": 0.1}]}
    content = {
        "model": states[0],
        "ema": {"model": states[1], "num_updates": 5},
        "trainer": {"iteration": 5},
        "opt": optimizer,
    }
    torch.save(content, run / "model_final.pth")
    torch.save({"model": states[1], "iteration": 8}, run / "model_best.pth")
    (run / "git.txt").write_text(GIT.replace(HEAD, 40 * "b") + GIT)
    (run / "results.json").write_text(json.dumps({"metrics": {"mIoU": 1.0}}))  # of any weights
    note(run, "model_final.pth", {"mIoU": 61.987, "AP": None, "ema/mIoU": 7.0})
    note_average(run, 6)
    return run


def note(run: Path, name: str, figures: dict, **changes) -> None:
    """As train/checkpoint.py notes the figures of an evaluation."""
    entry = {"iteration": 5, "sha256": sha256_of(run / name), "figures": figures} | changes
    (run / "checkpoints.json").write_text(json.dumps({"files": {name: entry}}))


def note_average(run: Path, iteration: int, **more) -> None:
    (run / "ema").mkdir(exist_ok=True)
    summary = {"measured": {"iteration": iteration}, "metrics": {"mIoU": 63.0}} | more
    (run / "ema" / "results.json").write_text(json.dumps(summary))


@pytest.fixture
def export(monkeypatch, capsys):
    def call(*arguments) -> Path:
        monkeypatch.setattr(sys, "argv", ["export_weights.py", *map(str, arguments)])
        export_weights.main()
        found = re.search(r"-> (\S+)", capsys.readouterr().out)
        assert found
        return Path(found[1])

    return call


def test_the_file_is_named_by_row_and_hash_and_says_where_it_comes_from(
    folder, export, config, states
):
    file = export(folder, "--licence", "CC0")
    digest = sha256_of(file)[:8]
    assert file == folder / f"toy_cityscapes_semantic_hrnet_tiny_conv-{digest}.safetensors"
    read = read_weights(file)
    assert read.tensors.keys() == states[0].keys()
    said = read.provenance
    assert said is not None
    assert (said.row, said.iteration) == ("toy_cityscapes_semantic_hrnet_tiny_conv", 6)
    assert said.revision == HEAD
    assert json.loads(said.metrics) == {"mIoU": 61.99}
    assert said.source_sha256 == sha256_of(folder / "model_final.pth")
    assert said.licence == "CC0"
    model = build(config.task.model)
    load_model(model, file)
    assert all(torch.equal(v, states[0][n]) for n, v in model.state_dict().items())


def test_the_same_checkpoint_gives_the_same_file(folder, export, tmp_path):
    first = export(folder)
    with pytest.raises(SystemExit, match="it is this very file"):
        export(folder)
    (tmp_path / "elsewhere").mkdir()
    assert export(folder, "--to", tmp_path / "elsewhere").name == first.name
    assert export(folder, "--overwrite") == first
    assert [p.name for p in folder.glob("*.safetensors")] == [first.name]


def test_averages_and_other_checkpoints(folder, export, states):
    for arguments, label, expected in (
        (["--ema"], "-ema-", '{"mIoU": 63.0}'),
        (["--checkpoint", "model_best.pth"], "_conv-", ""),
    ):
        file = export(folder, *arguments)
        read = read_weights(file)
        assert all(torch.equal(v, states[1][n]) for n, v in read.tensors.items())
        assert label in file.name
        assert read.provenance
        assert read.provenance.metrics == expected
        assert ("moving average of the weights" in read.provenance.row) == ("--ema" in arguments)
    with pytest.raises(SystemExit, match="no averaged weights"):
        export(folder, "--ema", "--checkpoint", "model_best.pth")
    with pytest.raises(SystemExit, match=r"it has model_best\.pth, model_final\.pth"):
        export(folder, "--checkpoint", "model_0000001.pth")


@pytest.mark.parametrize("chosen", ["checkpoint.best=mIoU", "train.early_stop={patience: 3}"])
def test_a_run_that_chose_its_best_exports_that(folder, export, states, chosen):
    file = folder / ".hydra" / "config.yaml"
    small = ["head.aspp_channels=16", "head.semantic.decoder_dim=16", "dataset.crop_size=[64,64]"]
    words = ["backbone=hrnet_tiny", "dataset=toy_cityscapes", "task=semantic", *small, chosen]
    OmegaConf.save(compose(words), file)
    name = next(iter(states[1]))
    assert torch.equal(read_weights(export(folder)).tensors[name], states[1][name])
    final = read_weights(export(folder, "--checkpoint", "model_final.pth"))
    assert torch.equal(final.tensors[name], states[0][name])
    (folder / "model_best.pth").unlink()
    assert torch.equal(read_weights(export(folder, "--overwrite")).tensors[name], states[0][name])


def test_a_file_that_came_out_wrong_gets_no_name(folder, export, monkeypatch):
    """A loader that changes a value is found out, and nothing is left."""

    def load_wrongly(model, path, image_format):
        load_model(model, path, image_format)
        next(iter(model.parameters())).data[0] += 1

    monkeypatch.setattr("scripts.export_weights.load_model", load_wrongly)
    with pytest.raises(SystemExit, match="another after loading"):
        export(folder)
    assert not list(folder.glob("*.safetensors"))


def test_runs_that_cannot_be_exported(folder, export, states, tmp_path):
    state = dict(states[0])
    state.pop("sem_seg_head.predictor.bias")
    torch.save({"model": state}, folder / "model_final.pth")
    with pytest.raises(SystemExit, match=r"1 missing: sem_seg_head\.predictor\.bias"):
        export(folder)
    torch.save({"model": states[0]}, folder / "model_final.pth")
    with pytest.raises(SystemExit, match="is not the file that the run wrote"):
        export(folder)
    for damage in ("{", "[" * 100000, "[]", '{"files": 1}', '{"files": {"model_final.pth": 1}}'):
        (folder / "checkpoints.json").write_text(damage)
        with pytest.raises(SystemExit, match=r"checkpoints\.json is damaged"):
            export(folder)
    (folder / "checkpoints.json").unlink()
    with pytest.raises(SystemExit, match="there is no folder"):
        export(folder, "--to", tmp_path / "none")
    (folder / ".hydra" / "config.yaml").write_text("a: 1\n")
    with pytest.raises(SystemExit, match=r"config\.yaml is"):
        export(folder)
    with pytest.raises(SystemExit, match="no run folder of ours"):
        export(tmp_path)
    assert not list(folder.glob("*.safetensors"))


def test_a_malicious_config_builds_nothing(folder, export, monkeypatch):
    monkeypatch.chdir(folder)
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    config.task.model = {"_target_": "os.system", "command": "touch evil_was_run"}
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    with pytest.raises(SystemExit, match=r"os\.system is not among"):
        export(folder)
    assert "evil_was_run" not in os.listdir(folder)


def test_the_revision_that_a_run_noted(tmp_path):
    file = tmp_path / "git.txt"
    assert read_revision(file) == ""
    file.write_text("# 2026\nnot a git checkout\n")
    assert read_revision(file) == ""
    file.write_text(GIT.replace("--short\n", "--short\n M run.py\n"))
    assert read_revision(file) == f"{HEAD} with local changes"


def test_the_figures_of_an_average_are_of_its_iteration_alone(tmp_path):
    assert metrics_of_average(tmp_path, 6) == ""
    note_average(tmp_path, 6)
    assert json.loads(metrics_of_average(tmp_path, 6)) == {"mIoU": 63.0}
    for iteration in (5, 7, -1):
        assert metrics_of_average(tmp_path, iteration) == ""
    note_average(tmp_path, -1)
    assert metrics_of_average(tmp_path, -1) == ""
    note_average(tmp_path, 6, no_result="fast_dev_run")
    assert metrics_of_average(tmp_path, 6) == ""


def test_figures_are_known_by_contents_whatever_the_name(tmp_path):
    """The evaluation is noted for the numbered file; model_final is its second name."""
    final = {"sha256": "a"}
    numbered = {"sha256": "a", "figures": {"mIoU": 50.0, "PQ": float("nan")}}
    other = {"sha256": "b", "figures": {"mIoU": 99.0}}
    files = {"model_best.pth": other, "model_final.pth": final, "model_0000005.pth": numbered}
    (tmp_path / "checkpoints.json").write_text(json.dumps({"files": files}))
    assert json.loads(metrics_of_checkpoint(tmp_path, "model_final.pth", "a")) == {"mIoU": 50.0}
    assert metrics_of_checkpoint(tmp_path, "mine.pth", "c") == ""
    (tmp_path / "results.json").write_text('{"no_result": "fast_dev_run"}')
    assert metrics_of_checkpoint(tmp_path, "model_final.pth", "a") == ""


def test_long_figures_stay_json_when_they_are_read(tmp_path):
    many = {f"figure {number} of many": 12.34 for number in range(1000)}
    (tmp_path / "checkpoints.json").write_text(
        json.dumps({"files": {"a.pth": {"sha256": "a", "figures": many}}})
    )
    text = metrics_of_checkpoint(tmp_path, "a.pth", "a")
    assert 3000 < len(text) <= MAX_TEXT
    said = _read_provenance(provenance(metrics=text).header())
    assert said
    assert json.loads(said.metrics).items() <= many.items()


def test_model_ema_is_an_average_without_figures(folder, export, states):
    torch.save({"model": states[1]}, folder / "model_ema.pth")
    file = export(folder, "--checkpoint", "model_ema.pth")
    assert "-ema-" in file.name
    said = read_weights(file).provenance
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
