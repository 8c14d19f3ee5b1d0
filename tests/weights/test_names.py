"""Names of known origins become ours; the table is exact."""

import itertools

import pytest
import torch

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.models.backbones import HRNet, Xception65
from panoptic_dl.weights.load import compare, split_backbone
from panoptic_dl.weights.names import ORIGINS, _find_origin, _strip_wrappers, rename

CLASSIFIER = ("incre_modules.0.0.conv1.weight", "final_layer.0.bias", "classifier.weight")


@pytest.fixture(scope="module")
def backbones():
    """On `meta`: names and shapes, no values."""
    with torch.device("meta"):
        return {
            "xception65": Xception65(norm="BN"),
            "hrnet18": HRNet(width=18, norm="BN"),
        }


def named(backbone, prefix, *others):
    state = {prefix + name: value for name, value in backbone.state_dict().items()}
    return state | {name: torch.zeros(1) for name in others}


FILES = {
    "SegmenTron, Xception-65 for ImageNet": ("xception65", "", ("fc.weight",)),
    "SegmenTron, a whole model with Xception-65": (
        "xception65",
        "encoder.",
        ("head.a", "auxlayer.b"),
    ),
    "HRNet-Image-Classification, or timm's HRNet (the same names)": ("hrnet18", "", CLASSIFIER),
}


@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "module.model.", "model.module."])
@pytest.mark.parametrize("name", FILES)
def test_a_backbone_of_each_origin_is_covered_whatever_wraps_it(backbones, name, wrapper):
    kind, prefix, others = FILES[name]
    tensors = {wrapper + n: t for n, t in named(backbones[kind], prefix, *others).items()}
    renamed = rename(tensors)
    assert renamed.origin is not None
    assert renamed.origin.name == name
    own, dropped = split_backbone(backbones[kind], renamed)
    coverage = compare(backbones[kind].state_dict(), own, dropped)
    assert not coverage.faults
    assert coverage.percent == 100
    assert len(dropped) == len({n.split(".")[0] for n in others})


@pytest.mark.parametrize(
    "prefix", ["backbone.", "module.backbone.", "backbone.module.", "backbone." * 2]
)
@pytest.mark.parametrize("kind", ["xception65", "hrnet18"])
def test_our_own_prefix_alone_and_combined(backbones, kind, prefix):
    own, dropped = split_backbone(backbones[kind], rename(named(backbones[kind], prefix)))
    assert own.keys() == backbones[kind].state_dict().keys()
    assert not dropped


def test_detectron2s_saved_statistics_are_read_and_dropped(backbones):
    others = ("sem_seg_head.predictor.weight",)
    tensors = named(backbones["hrnet18"], "backbone.", *others)
    tensors["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    renamed = rename(tensors)
    assert renamed.origin is ORIGINS[-1]
    assert renamed.statistics == {"pixel_mean": (1.0, 2.0, 3.0)}
    assert "pixel_mean" not in renamed.tensors
    assert list(renamed.tensors) == [n for n in tensors if n != "pixel_mean"]


def test_marks_tell_the_origins_apart(backbones):
    names = {
        name: named(backbones[kind], prefix, *others)
        for name, (kind, prefix, others) in FILES.items()
    }
    for (name, tensors), origin in itertools.product(names.items(), ORIGINS):
        assert (origin.mark in tensors) == (origin.name == name)


def test_resembling_names_are_not_taken(backbones):
    """One letter more: no origin, and nothing is matched by likeness."""
    tensors = {f"{n}s": t for n, t in backbones["hrnet18"].state_dict().items()}
    assert _find_origin(tensors) is None
    own, _ = split_backbone(backbones["hrnet18"], rename(tensors))
    assert not compare(backbones["hrnet18"].state_dict(), own).matched


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(WeightsError, match="one name"):
        _strip_wrappers({"backbone.module.a": torch.zeros(1), "backbone.a": torch.zeros(1)})
