"""Write weights: of a run for publishing, of a backbone for starting from; whole or not at all."""

import json
import os
import re
import resource
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import sha256_of
from panoptic_dl.models.backbones import HRNet
from panoptic_dl.weights import export as write
from panoptic_dl.weights.export import (
    ARCHITECTURES,
    SUFFIXES,
    find_architecture,
    metrics_of_average,
    metrics_of_checkpoint,
    read_revision,
    write_weights,
)
from panoptic_dl.weights.load import load_model, load_model_or_backbone
from panoptic_dl.weights.read import MAX_METRICS, read_provenance, read_weights
from scripts import convert_weights, export_weights
from tests.models.golden_rows import ROWS, load_shapes
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


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("change", ["value", "type", "name"])
def test_a_disk_that_does_not_keep_what_it_is_given(tmp_path, monkeypatch, kind, change):
    changes = {
        "value": lambda state: state | {"head.bias": state["head.bias"] + 1},
        "type": lambda state: state | {"head.bias": state["head.bias"].double()},
        "name": lambda state: {n: v for n, v in state.items() if n != "head.bias"},
    }
    file, real = tmp_path / f"w{kind}", write._write
    file.write_text("precious")
    monkeypatch.setattr(
        write, "_write", lambda path, state, said: real(path, changes[change](state), said)
    )
    with pytest.raises(OSError, match="does not hold what was written"):
        write_weights(file, Tiny().state_dict(), provenance(), overwrite=True)
    assert file.read_text() == "precious"
    assert os.listdir(tmp_path) == [file.name]


CLASSIFIER = {
    "incre_modules.0.0.conv1.weight": (32, 18, 1, 1),
    "downsamp_modules.0.0.weight": (256, 128, 3, 3),
    "final_layer.0.weight": (8, 4, 1, 1),
    "classifier.weight": (10, 8),
}


@pytest.fixture(scope="module")
def hrnet():
    torch.manual_seed(0)
    return HRNet(width=18, norm="BN")


@pytest.fixture
def source(tmp_path, hrnet):
    """As the authors' file: torch's old format, no counters, wrapped, with a classifier."""
    state = OrderedDict((n, v) for n, v in hrnet.state_dict().items() if "num_batches" not in n)
    state |= {name: torch.zeros(shape) for name, shape in CLASSIFIER.items()}
    file = tmp_path / "hrnetv2_w18_imagenet_pretrained.pth"
    content = {"state_dict": {f"module.{n}": v for n, v in state.items()}, "epoch": 3}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file


def change(source, edit):
    content = torch.load(source, weights_only=True)
    edit(content["state_dict"])
    torch.save(content, source)


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
        convert_weights.main()
        return capsys.readouterr().out

    return call


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = HRNet(width=18, norm="BN")
        self.head = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pkl"])
def test_a_converted_backbone_starts_a_model(tmp_path, source, hrnet, run, kind, caplog):
    caplog.set_level("INFO")
    target = tmp_path / f"w.{kind}"
    report = run(source, target, "--licence", "MIT, as its authors say")
    assert "1525 matched: 100.00 % of the values" in report
    assert "dropped: classifier, its ImageNet classifier (1 tensors)" in report
    assert "batch counters missing" in report
    said = read_weights(target).provenance
    assert said is not None
    assert (said.source_file, said.source_sha256) == (source.name, sha256_of(source))
    assert (said.source_size, said.architecture) == (source.stat().st_size, "hrnet18")
    assert said.licence == "MIT, as its authors say"
    assert said.pixel_mean == (123.675, 116.28, 103.53)
    assert said.image_format == "RGB"
    model = Model()
    load_model_or_backbone(model, target)
    assert same(hrnet, model.backbone)
    for fact in (sha256_of(source), "MIT, as its authors say", source.name, "RGB", "hrnet18"):
        assert fact in caplog.text  # the log of every run that loads it shows where it comes from


def test_a_missing_part_is_refused_unless_it_is_allowed(tmp_path, source, run):
    change(source, lambda state: state.pop("module.stage4.2.branches.3.3.conv2.weight"))
    with pytest.raises(SystemExit, match=r"does not fit hrnet18: 98\.\d+ % .*--allow-partial"):
        run(source, tmp_path / "w.pth")
    assert os.listdir(tmp_path) == [source.name]
    report = run(source, tmp_path / "w.pth", "--allow-partial")
    assert "1 missing: stage4.2.branches.3.3.conv2.weight" in report
    assert "weights= of this project will refuse it" in report
    with pytest.raises(WeightsError, match="1 missing"):
        load_model_or_backbone(Model(), tmp_path / "w.pth")


def test_more_of_the_backbones_own_parts_and_other_shapes_are_refused(tmp_path, source, run):
    change(source, lambda state: state.update({"module.layer1.9.conv1.weight": torch.zeros(1)}))
    with pytest.raises(SystemExit, match="does not fit"):
        run(source, tmp_path / "w.pth")
    change(source, lambda state: state.pop("module.layer1.9.conv1.weight"))
    change(source, lambda state: state.update({"module.bn1.weight": torch.zeros(63)}))
    with pytest.raises(SystemExit, match="does not fit"):
        run(source, tmp_path / "w.pth")


def test_parts_that_nobody_knows_are_refused(tmp_path, source, run):
    change(source, lambda state: state.update({"module.stage5.0.weight": torch.zeros(1)}))
    with pytest.raises(SystemExit, match="does not fit"):
        run(source, tmp_path / "w.pth")
    assert "1 unexpected: stage5.0.weight" in run(source, tmp_path / "w.pth", "--allow-partial")


def test_values_that_are_not_finite_are_refused(tmp_path, source, run):
    change(source, lambda state: state["module.bn1.weight"].fill_(float("nan")))
    with pytest.raises(SystemExit, match=r"NaN in 1 tensors, such as backbone\.bn1\.weight"):
        run(source, tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()


def test_numbers_of_odd_kinds_are_not_the_disks_fault(tmp_path, source, run):
    odd = torch.zeros(64).to(torch.float8_e4m3fn)
    change(source, lambda state: state.update({"module.bn1.weight": odd}))
    with pytest.raises(SystemExit, match="does not fit"):
        run(source, tmp_path / "w.pth")


def test_another_backbone_an_existing_file_and_the_source_itself_are_refused(tmp_path, source, run):
    with pytest.raises(SystemExit, match="does not fit hrnet32"):
        run(source, tmp_path / "w.pth", "--backbone", "hrnet32")
    (tmp_path / "w.pth").write_text("precious")
    with pytest.raises(SystemExit, match="--overwrite"):
        run(source, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_text() == "precious"
    with pytest.raises(SystemExit, match="is the file that is read"):
        run(source, source, "--overwrite")
    with pytest.raises(SystemExit, match="no such file"):
        run(tmp_path / "none.pth", tmp_path / "v.pth")


def test_the_backbone_is_taken_out_of_a_whole_model(tmp_path, hrnet, run):
    state = {f"backbone.{n}": v for n, v in hrnet.state_dict().items()}
    torch.save(
        {"model": state | {"sem_seg_head.predictor.weight": torch.zeros(1)}}, tmp_path / "m.pth"
    )
    report = run(tmp_path / "m.pth", tmp_path / "w.pth")
    assert "dropped: sem_seg_head, the head of a whole model (1 tensors)" in report
    model = Model()
    load_model_or_backbone(model, tmp_path / "w.pth")
    assert torch.equal(model.backbone.conv1.weight, hrnet.conv1.weight)


def test_what_a_converted_file_says_stays_true_when_it_is_converted_again(tmp_path, source, run):
    first, second = tmp_path / "a.pkl", tmp_path / "b.safetensors"
    run(source, first, "--image-format", "BGR", "--licence", "MIT")
    run(first, second)
    said = read_weights(second).provenance
    assert said is not None
    assert (said.image_format, said.licence, said.source_file) == ("BGR", "MIT", "a.pkl")
    assert source.name in said.origin
    with pytest.raises(SystemExit, match="expects BGR images"):
        run(first, tmp_path / "c.pth", "--image-format", "RGB")


def test_statistics_in_an_old_detectron2_file_go_before_those_of_the_backbone(tmp_path, hrnet, run):
    state = {f"backbone.{n}": v for n, v in hrnet.state_dict().items()}
    state |= {"sem_seg_head.predictor.weight": torch.zeros(1), "pixel_std": torch.ones(3, 1, 1)}
    torch.save({"model": state}, tmp_path / "m.pth")
    run(tmp_path / "m.pth", tmp_path / "w.pth")
    said = read_weights(tmp_path / "w.pth").provenance
    assert said is not None
    assert said.pixel_std == (1, 1, 1)
    assert said.pixel_mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize("row", ROWS)
def test_each_published_backbone_is_told_by_its_names(row):
    shapes = load_shapes(row).items()
    expected = "xception65" if "xception" in row else "hrnet48"
    for prefix in ("", "backbone."):
        tensors = {
            prefix + name.removeprefix("backbone."): torch.empty(shape, device="meta")
            for name, shape in shapes
            if name.startswith("backbone.")
        }
        assert find_architecture(tensors, "w.pth") == expected


def test_unknown_backbones_ask_for_the_option():
    with pytest.raises(WeightsError, match=f"{next(iter(ARCHITECTURES))}.*--backbone"):
        find_architecture({"transition1.0.0.weight": torch.zeros(30, 256, 3, 3)}, "w.pth")


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
    """As engine/checkpoint_files.py notes the figures of an evaluation."""
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


def test_a_file_that_came_out_wrong_gets_no_name(folder, export, monkeypatch):
    """A loader that changes a value is found out, and nothing is left."""

    def load_wrongly(model, path, image_format):
        load_model(model, path, image_format)
        next(iter(model.parameters())).data[0] += 1

    monkeypatch.setattr("panoptic_dl.weights.export.load_model", load_wrongly)
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
    assert 3000 < len(text) <= MAX_METRICS
    said = read_provenance(provenance(metrics=text).header())
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
