"""mode=benchmark: what it reports, what it refuses, and that options do what they say."""

import json

import pytest
import torch
from PIL import Image

from panoptic_dl.config import compose
from panoptic_dl.modes.benchmark import STAGES
from panoptic_dl.run import work
from tests.modes.small_runs import BENCHMARK

pytestmark = pytest.mark.thorough


def run(tmp_path, *overrides):
    return work("cpu", compose([*BENCHMARK, *overrides, f"run_dir={tmp_path}"]), ())


def test_stages_counts_and_files(tmp_path):
    result = run(tmp_path)
    assert list(result["stages"]) == [*STAGES, "total"]
    for figures in result["stages"].values():
        assert 0 < figures["p50"] <= figures["p90"]
        assert figures["images_per_s"] == pytest.approx(1000 / figures["mean"])
    means = [result["stages"][stage]["mean"] for stage in STAGES]
    assert result["stages"]["total"]["mean"] == pytest.approx(sum(means))
    assert next(iter(result["metrics"])) == "total ms"
    assert result["peak_host_MiB"] > 100
    assert result["effect"] is None
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert saved["stages"] == result["stages"]
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.width > 800
    text = (tmp_path / "log.txt").read_text()
    assert "| post-processing |" in text
    assert "GMACs" in text
    assert ", torch 2" in text


def test_parameters_and_operations_are_those_of_the_network(tmp_path):
    """GMACs against a count by hand of a network that is one 3x3 convolution."""
    from panoptic_dl.config import build
    from panoptic_dl.core.settings import BenchmarkSettings
    from panoptic_dl.modes.benchmark import _Benchmark

    config = compose([*BENCHMARK, f"run_dir={tmp_path}"])
    mode = build(config.mode, device="cpu")
    assert mode["parameters"] == sum(p.numel() for p in build(config.task.model).parameters())

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 7, 3, padding=1, bias=False)

        def preprocess(self, samples):
            from detectron2.structures import ImageList

            return ImageList.from_tensors([s["image"].float() for s in samples])

        def network(self, images):
            return (self.convolution(images),)

    settings = BenchmarkSettings(image_size=[64, 96], batch_size=2, warmup=0, iterations=1)
    scenes = build(config.mode.scenes)
    probe = _Benchmark(One(), scenes, build(config.mode.mapper), settings, torch.device("cpu"))
    assert probe.count_macs() == 64 * 96 * 3 * 7 * 9


def test_network_only_is_the_published_flag(tmp_path):
    result = run(tmp_path, "benchmark.network_only=true", "benchmark.batch_size=2")
    assert list(result["stages"]) == [*STAGES[:3], "total"]


@pytest.mark.parametrize("left_out", [[], ["semantic"], ["instances"], ["semantic", "instances"]])
def test_post_processing_is_timed_on_maps_like_the_networks(tmp_path, monkeypatch, left_out):
    from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab

    seen = {"network": [], "postprocess": []}
    network, postprocess = PanopticDeepLab.network, PanopticDeepLab.postprocess

    def spy_network(self, images):
        maps = network(self, images)
        seen["network"].append([m.shape for m in maps])
        return maps

    def spy_postprocess(self, maps, *rest):
        seen["postprocess"].append([m.shape for m in maps])
        outputs = postprocess(self, maps, *rest)
        assert len(outputs[0]["panoptic_seg"][0].unique()) > 5, "a scene with instances"
        return outputs

    monkeypatch.setattr(PanopticDeepLab, "network", spy_network)
    monkeypatch.setattr(PanopticDeepLab, "postprocess", spy_postprocess)
    run(tmp_path, *(f"task.model.predict_{name}=false" for name in left_out))
    assert seen["postprocess"]
    assert {str(s) for s in seen["postprocess"]} == {str(seen["network"][0])}


def test_detectron2s_post_processing_in_its_place(tmp_path, monkeypatch):
    from panoptic_dl.postprocess import panoptic as reference

    calls = []
    original = reference.post_processing.get_panoptic_segmentation
    monkeypatch.setattr(
        reference.post_processing,
        "get_panoptic_segmentation",
        lambda *a, **k: calls.append(1) or original(*a, **k),
    )
    run(tmp_path, "benchmark.postprocess=reference")
    assert len(calls) == 4  # one to warm up, two timed, one for the peak of memory


def test_the_semantic_task(tmp_path):
    result = run(tmp_path, "task=semantic", "head.semantic.decoder_dim=16")
    assert list(result["stages"]) == [*STAGES, "total"]


def test_images_that_are_padded(tmp_path):
    result = run(tmp_path, "benchmark.image_size=[70,90]", "benchmark.batch_size=2")
    assert result["image_size"] == [70, 90]
    assert result["input_size"] == [96, 96]


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        (["benchmark.fold_batch_norm=true"], 1e-3),
        (["benchmark.channels_last=true"], 1e-3),
        (["benchmark.precision=bf16"], 3.0),
    ],
)
def test_the_effect_of_options_is_measured(tmp_path, options, largest):
    effect = run(tmp_path, *options)["effect"]
    spread = effect["logit_spread"]
    assert 0.3 < spread < 3, "the comparison is on activations of healthy size"
    assert 0 < effect["max_logit_difference"] < largest * spread
    assert 0 <= effect["changed_classes"] < 0.5
    assert 0 <= effect["changed_panoptic"] <= 1


@pytest.mark.parametrize("compiles", [True, False])
def test_the_fastest_setting_is_looked_for(tmp_path, monkeypatch, compiles):
    modes = []

    def compile(network, mode=None):
        modes.append(mode)
        if not compiles:
            raise RuntimeError("no compiler")
        return network

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # no bf16
    best = run(tmp_path, "benchmark.autotune=true")
    assert modes == ["default"]
    results = json.loads((tmp_path / "benchmark.json").read_text())
    tried = [
        [result["settings"][name] for name in ("fold_batch_norm", "channels_last", "compile")]
        for result in results
    ]
    plain = [[False, False, False], [True, False, False], [True, True, False]]
    assert tried[:3] == plain
    assert len(tried) == 3 + compiles
    assert not compiles or (tried[3][2] == "default" and tried[3][:2] in [t[:2] for t in plain])
    times = [result["stages"]["network"]["p50"] for result in results]
    assert best["stages"]["network"]["p50"] == min(times)
    log = (tmp_path / "log.txt").read_text()
    names = {"fold_batch_norm": "true", "channels_last": "true", "compile": "default"}
    words = [f"benchmark.{n}={names[n]}" for n in names if best["settings"][n]]
    assert " ".join(["other classes: benchmark.precision=fp32", *words]) in log
    assert ("no compiler" in log) != compiles


def test_a_setting_that_changes_too_much_is_not_named(tmp_path, monkeypatch):
    from panoptic_dl.modes import benchmark

    monkeypatch.setattr(benchmark, "TOLERANCE", -1e-9)
    monkeypatch.setattr(benchmark, "NO_EFFECT", {"changed_classes": -1.0})
    monkeypatch.setattr(torch, "compile", lambda network, mode=None: network)
    assert run(tmp_path, "benchmark.autotune=true")["changes"] == {"precision": "fp32"}


def test_folding_that_is_not_exact_is_refused(tmp_path, monkeypatch):
    from panoptic_dl.models import batch_norm as fold

    original = fold.fuse_conv_bn_weights
    monkeypatch.setattr(
        fold,
        "fuse_conv_bn_weights",
        lambda w, b, mean, var, eps, *rest: original(w, b, mean * 1.001, var, eps, *rest),
    )
    with pytest.raises(SystemExit):
        run(tmp_path, "benchmark.fold_batch_norm=true")
    assert "not exact for this network" in (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.precision=fp16", "fp16 needs a GPU"),
        ("task=semantic benchmark.postprocess=reference", "task=semantic has none"),
        ("weights=/nowhere.pth", "weights=/nowhere.pth"),
    ],
)
def test_bad_options_are_one_message(tmp_path, capsys, override, message):
    with pytest.raises(SystemExit):
        run(tmp_path, *override.split())
    assert message in capsys.readouterr().err
