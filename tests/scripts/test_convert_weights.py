"""Convert backbones of known origins, and start a model from them."""

import os
import re
import sys
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import sha256_of
from panoptic_dl.models.backbones import HRNet
from panoptic_dl.models.backbones.timm import TimmBackbone
from panoptic_dl.weights.files import read_weights
from panoptic_dl.weights.load import load_to_train
from scripts import convert_weights
from scripts.convert_weights import find_any_backbone, find_backbone
from tests.models.golden_rows import ROWS, load_shapes
from tests.weights.tiny_weights import same

pytestmark = pytest.mark.thorough

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
    monkeypatch.setattr(convert_weights, "options", lambda *_: ["hrnet_tiny", "hrnet18"])

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
    assert "classifier (1 tensor)" in report
    assert "batch counters missing" in report
    said = read_weights(target).provenance
    assert said is not None
    assert (said.source_file, said.source_sha256) == (source.name, sha256_of(source))
    assert (said.source_size, said.architecture) == (source.stat().st_size, "hrnet18")
    assert said.licence == "MIT, as its authors say"
    assert said.origin == "HRNet-Image-Classification, the repository of HRNet's authors"
    assert said.pixel_mean == (123.675, 116.28, 103.53)
    assert said.image_format == "RGB"
    model = Model()
    load_to_train(model, target)
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
        load_to_train(Model(), tmp_path / "w.pth")


def test_more_of_the_backbones_own_parts_and_other_shapes_are_refused(tmp_path, source, run):
    change(source, lambda state: state.update({"module.layer1.9.conv1.weight": torch.zeros(1)}))
    with pytest.raises(SystemExit, match=r"others within its layers, such as layer1\.9"):
        run(source, tmp_path / "w.pth")
    change(source, lambda state: state.pop("module.layer1.9.conv1.weight"))
    change(source, lambda state: state.update({"module.bn1.weight": torch.zeros(63)}))
    with pytest.raises(SystemExit, match="does not fit"):
        run(source, tmp_path / "w.pth")


def test_parts_beside_the_backbone_are_left_out_and_named(tmp_path, source, run):
    change(source, lambda state: state.update({"module.my_head.0.weight": torch.zeros(1)}))
    change(source, lambda state: state.update({"loss.criterion.weight": torch.zeros(1)}))
    report = run(source, tmp_path / "w.pth")
    assert "my_head (1 tensor), loss (1 tensor)" in report


def test_of_two_networks_one_is_taken_out_by_its_prefix(tmp_path, hrnet, run):
    student = {f"backbone.{name}": value for name, value in hrnet.state_dict().items()}
    content = {"student": {n: v + 1 for n, v in student.items()}, "teacher": student}
    torch.save(content, tmp_path / "dino.pth")
    with pytest.raises(SystemExit, match=r"'student\.backbone\.' and 'teacher\.backbone\.'"):
        run(tmp_path / "dino.pth", tmp_path / "w.pth")
    run(tmp_path / "dino.pth", tmp_path / "w.pth", "--prefix", "teacher.backbone")
    model = Model()
    load_to_train(model, tmp_path / "w.pth")
    assert torch.equal(model.backbone.conv1.weight, hrnet.conv1.weight)


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
    assert "left out: sem_seg_head (1 tensor)" in report
    model = Model()
    load_to_train(model, tmp_path / "w.pth")
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


@pytest.mark.parametrize("row", [ROWS[0], next(row for row in ROWS if "hrnet48" in row)])
def test_each_published_backbone_is_told_by_its_names(row):
    shapes = load_shapes(row).items()
    expected = "xception65" if "xception" in row else "hrnet48"
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes}
    assert find_any_backbone(tensors).name == expected


def test_a_backbone_of_the_users_own_from_a_folder_elsewhere(tmp_path, monkeypatch, capsys):
    """Found by its names among all options; its classifier is left out."""
    folder = tmp_path / "mine" / "backbone"
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from panoptic_dl.models.backbones.hrnet import HRNet\n"
        "backbone = L(HRNet)(width=8, norm='BN', num_modules=(1, 1, 1, 1), num_blocks=1,\n"
        "                    stem_channels=8)\n"
        "decoder = {}\n"
        "pixels = dict(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))\n"
        "pretrained = dict(file='small.pth.tar', source='my own training')\n"
    )
    own = HRNet(width=8, norm="BN", num_modules=(1, 1, 1, 1), num_blocks=1, stem_channels=8)
    state = {f"net.{name}": value for name, value in own.state_dict().items()}
    torch.save(state | {"net.linear.weight": torch.zeros(1)}, tmp_path / "small.pth.tar")
    arguments = [tmp_path / "small.pth.tar", tmp_path / "w.pth", "--config-dir", tmp_path / "mine"]
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
    convert_weights.main()
    assert "backbone: small, " in capsys.readouterr().out
    said = read_weights(tmp_path / "w.pth").provenance
    assert said is not None
    assert (said.architecture, said.origin) == ("small", "my own training")
    assert said.pixel_mean == (1, 2, 3)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_files_of_timm_convert_as_they_load(tmp_path, run, name):
    """The classifier is left out; a plain ViT's pyramid is none of the file's."""
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    report = run(tmp_path / "model.safetensors", tmp_path / "w.pkl", "--backbone", f"timm:{name}")
    assert "100.00 % of the values" in report
    assert re.search(r"left out: .*(fc|head)", report)
    said = read_weights(tmp_path / "w.pkl").provenance
    assert said is not None
    assert said.architecture == f"timm:{name}"
    assert said.pixel_mean == pytest.approx([255 * x for x in theirs.pretrained_cfg["mean"]])
    for file in ("model.safetensors", "w.pkl"):
        model = torch.nn.Module()
        model.backbone = TimmBackbone(name=name)
        load_to_train(model, tmp_path / file)
        whole = theirs.state_dict()
        loaded = model.backbone.encoder.state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in loaded.items())
    with pytest.raises(SystemExit, match="no tset_resnet"):
        run(tmp_path / "w.pkl", tmp_path / "v.pth", "--backbone", "timm:tset_resnet")


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "mobilenetv3_large"])
def test_the_named_options_take_files_of_timm(name):
    with torch.device("meta"):
        tensors = timm.create_model(
            {"mobilenetv3_large": f"{name}_100"}.get(name, name)
        ).state_dict()
    found = find_backbone(tensors, name)
    assert (found.coverage.faults, found.coverage.percent) == ({}, 100)
    assert found.coverage.left_out


def test_unknown_backbones_ask_for_the_option():
    with pytest.raises(WeightsError, match=r"none of convnext_tiny, .*, xception65 .*--backbone"):
        find_any_backbone({"transition1.0.0.weight": torch.zeros(30, 256, 3, 3)})
