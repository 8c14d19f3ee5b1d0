"""Shared models: the folder of `export_weights.py --hub`, its upload, and `from_pretrained`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from panoptic_dl import Predictor
from panoptic_dl.config import TargetError, build, compose
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import sha256_of
from panoptic_dl.core.run_folder import find_weights
from panoptic_dl.weights.hub import FILES, find_model
from scripts import export_weights
from tests.weights.false_hub import TOKEN, false_hub

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
SMALL = [
    *("backbone=hrnet_tiny", "dataset=cityscapes", "task=semantic"),
    *("head.aspp_channels=16", "head.semantic.decoder_dim=16", "dataset.min_size_test=64"),
]
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with paths of this machine in its config, and the metrics of its last checkpoint."""
    folder = tmp_path_factory.mktemp("made") / "run"
    (folder / ".hydra").mkdir(parents=True)
    config = compose([*SMALL, "dataset.root=/home/me/data", f"run_dir={folder}"])
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    (folder / "classes.json").write_text(build(config.dataset.classes).to_json())
    torch.manual_seed(0)
    state = build(config.task.model).state_dict()
    torch.save({"model": state, "iteration": 6}, folder / "model_final.pth")
    entry = {"sha256": sha256_of(folder / "model_final.pth"), "figures": {"mIoU": 61.987}}
    (folder / "checkpoints.json").write_text(json.dumps({"files": {"model_final.pth": entry}}))
    return folder


@pytest.fixture
def export(monkeypatch, capsys):
    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["export_weights.py", *map(str, arguments)])
        export_weights.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def shared(run, export, tmp_path):
    """The run as a folder to be shared."""
    export(run, "--hub", tmp_path / "shared", "--licence", "CC-BY-4.0")
    return tmp_path / "shared"


def change(folder: Path, **keys: object) -> None:
    """Change a shared config as its author could: with the hash of it."""
    config = OmegaConf.load(folder / "config.yaml")
    for key, value in keys.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False, force_add=True)
    OmegaConf.save(config, folder / "config.yaml")
    manifest = json.loads((folder / "panoptic_dl.json").read_text())
    manifest["files"]["config.yaml"] = sha256_of(folder / "config.yaml")
    (folder / "panoptic_dl.json").write_text(json.dumps(manifest))


def test_a_shared_folder_predicts_as_its_run(run, shared):
    assert sorted(path.name for path in shared.iterdir()) == sorted([*FILES, "README.md"])
    ours, theirs = Predictor.from_run(run), Predictor.from_pretrained(shared)
    assert (ours(IMAGE).semantic == theirs(IMAGE).semantic).all()
    assert len(np.unique(ours(IMAGE).semantic)) > 1
    assert theirs.classes == ours.classes
    assert find_weights(shared) == shared / "model.safetensors"  # of weights=


def test_modes_take_a_shared_folder_as_they_take_a_run(shared):
    config = compose(["mode=demo", f"weights={shared}", "input=x.png"])
    assert config.choice.backbone == "hrnet_tiny"
    assert config.head.aspp_channels == 16
    assert config.dataset.num_classes == 19


def test_nothing_of_the_machine_is_in_it(run, shared):
    text = (shared / "config.yaml").read_text()
    config = OmegaConf.create(text)
    assert config.dataset.root == "data"
    for path in shared.glob("*.[!s]*"):
        assert "/home/me" not in path.read_text()
        assert str(run.parent) not in path.read_text()
    assert not {"run_dir", "logger", "launch", "weights"} & config.keys()


def test_the_card_is_one_that_the_hub_reads(shared):
    card = ModelCard.load(shared / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name, result.metric_value) == (
        *("mean_iou", "mIoU"),
        61.99,
    )
    assert (result.dataset_name, result.task_type) == ("cityscapes", "image-segmentation")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "panoptic-dl")
    assert {"hrnet_tiny", "semantic-segmentation"} <= {*card.data.tags}
    assert "| mIoU | 61.99 |" in card.text
    assert "19 classes, 8 of them things" in card.text
    assert "random weights" in card.text


def test_a_licence_of_one_s_own_is_other(run, export, tmp_path):
    export(run, "--hub", tmp_path / "a", "--licence", "Street data: research only")
    header = yaml.safe_load((tmp_path / "a" / "README.md").read_text().split("---")[1])
    assert header["license"] == "other"
    assert header["license_name"] == "street-data--research-only"
    export(run, "--hub", tmp_path / "b")
    assert "license" not in (tmp_path / "b" / "README.md").read_text().split("---")[1]


@pytest.mark.parametrize("name", ["config.yaml", "classes.json", "model.safetensors"])
def test_a_changed_or_missing_file_is_refused(shared, name):
    content = (shared / name).read_bytes()
    (shared / name).write_bytes(content[:-1] + b" ")
    said = f"{name} is not the file that was shared"
    with pytest.raises(WeightsError, match=said):
        Predictor.from_pretrained(shared)
    if name == "model.safetensors":  # named by itself, as `weights=` may
        with pytest.raises(WeightsError, match=said):
            find_weights(shared / name)
    (shared / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        Predictor.from_pretrained(shared)


def test_a_damaged_manifest_and_one_of_another_version(shared):
    (shared / "panoptic_dl.json").write_text('{"format": 2}')
    with pytest.raises(WeightsError, match="its format is not 1"):
        Predictor.from_pretrained(shared)
    (shared / "panoptic_dl.json").write_text("{")
    with pytest.raises(WeightsError, match=r"panoptic_dl\.json is damaged"):
        Predictor.from_pretrained(shared)


def test_a_config_calls_what_is_allowed_only(shared):
    change(shared, backbone={"_target_": "os.system", "command": "touch hacked"})
    with pytest.raises(ValueError, match=r"not among the packages|no option in"):
        Predictor.from_pretrained(shared)
    change(shared, backbone={"_target_": "torch.nn.modules.module.os.system", "command": "x"})
    with pytest.raises(TargetError):
        Predictor.from_pretrained(shared)


def test_a_pickle_in_the_place_of_the_weights_runs_nothing(shared, tmp_path):
    hacked = tmp_path / "hacked"
    code = f"cposix\nsystem\n(S'touch {hacked}'\ntR.".encode()
    (shared / "model.safetensors").write_bytes(code)
    manifest = json.loads((shared / "panoptic_dl.json").read_text())
    manifest["files"]["model.safetensors"] = sha256_of(shared / "model.safetensors")
    (shared / "panoptic_dl.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError):
        Predictor.from_pretrained(shared)
    assert not hacked.exists()


def test_folders_and_names_that_are_no_models(run, tmp_path):
    for source, options, message in (
        (run, {}, "of a run's folder: Predictor.from_run"),
        (tmp_path / "none", {}, "there is no folder"),
        ("none", {}, 'a repository is "user/name"'),
        ("../x/y", {}, "there is no folder"),
        (tmp_path, {"revision": "main"}, "revision= is of a repository"),
    ):
        with pytest.raises(WeightsError, match=message):
            find_model(source, **options)


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"panoptic-dl\[hub\]"):
        find_model("me/model")


def test_what_cannot_be_exported_there(run, export, shared):
    for arguments, message in (
        ([run, "--hub", run], "is the folder of a run"),
        ([run, "--hub", shared], "holds a model"),
    ):
        with pytest.raises(SystemExit, match=message):
            export(*arguments)
    export(run, "--hub", shared, "--overwrite")
    for arguments in ([run, "--push", "me/model"], [run, "--hub", shared, "--to", shared]):
        with pytest.raises(SystemExit) as error:
            export(*arguments)
        assert error.value.code == 2


PUSH = """
import os, sys
from pathlib import Path
sys.path.insert(0, "scripts")
from hub_folder import push
for token in ("hf_wrong", "", sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    try:
        push(Path(sys.argv[1]), "me/model", private=True)
    except ValueError as error:
        print("error:", error)
"""
FETCH = """
import sys
from panoptic_dl.weights.hub import find_model
for name, revision in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        print(find_model(name, revision if revision != "-" else None).name)
    except ValueError as error:
        print("error:", error)
"""


def test_pushed_and_fetched_again(shared, tmp_path):
    def lines(code: str, *arguments: object) -> tuple[list[str], str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.url}
        environment |= {"HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    with false_hub() as hub:
        (refused, without, pushed), _ = lines(PUSH, shared, TOKEN)
        assert refused.startswith(f"error: --push me/model: {hub.url} does not take it (")
        assert without.startswith("error: --push needs the environment variable HF_TOKEN")
        (commit,) = hub.repositories["me/model"]
        assert pushed == f'pushed to {hub.url}/me/model, revision="{commit}"'
        assert hub.private == ["me/model"]
        files = hub.repositories["me/model"][commit]
        assert files == {path.name: path.read_bytes() for path in shared.iterdir()}
        files["hacked.py"] = files["model_final.pth"] = b"0"
        hub.repositories["me/bare"] = {"1": {"README.md": b""}}

        names = ["me/model", "-", "me/model", commit, "me/model", "v9", "me/other", "-"]
        found, log = lines(FETCH, *names, "me/bare", "-")
        assert found[:2] == [commit, commit]
        assert log.count(f'me/model is at revision="{commit}"') == 1
        assert found[2].startswith(
            "error: there is no folder me/model, and me/model with revision v9"
        )
        assert "me/other with revision main cannot be had" in found[3]
        assert found[4].startswith("error: me/bare has no panoptic_dl.json")
        assert sorted(hub.fetched) == sorted(FILES)
        snapshot = next((tmp_path / "cache").rglob(commit))
        assert (Predictor.from_pretrained(snapshot)(IMAGE).semantic >= 0).all()
    # The hub is gone: what is in the cache is there, and all else is said to be not.
    (kept, lost), _ = lines(FETCH, "me/model", "-", "me/new", "-")
    assert kept == commit
    assert f"cannot be had from {hub.url} and is not complete in the cache" in lost
