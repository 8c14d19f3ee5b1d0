"""A network is found in a file by its own names, whatever wraps it and whatever lies beside it."""

import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.models.backbones import HRNet, Xception65
from panoptic_dl.weights.load import compare
from panoptic_dl.weights.names import find_statistics, fit


def resnet(depth: int) -> ResNet:
    return ResNet(
        BasicStem(3, 64, norm="BN"), ResNet.make_default_stages(depth, norm="BN"), num_classes=5
    )


@pytest.fixture(scope="module")
def states():
    """On `meta`: names and shapes, no values."""
    with torch.device("meta"):
        networks = {
            "xception65": Xception65(norm="BN"),
            "hrnet18": HRNet(width=18, norm="BN"),
            "resnet50": resnet(50),
            "resnet101": resnet(101),
        }
    states = {name: network.state_dict() for name, network in networks.items()}
    for name in ("resnet50", "resnet101"):
        states[name] = {n: v for n, v in states[name].items() if not n.startswith("linear")}
    return states


def behind(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def faults(own, tensors, **options):
    found = fit(own, tensors, **options)
    return compare(own, found.tensors, found.left_out).faults, found


PREFIXES = (
    "",
    "module.",
    "backbone.",
    "backbone.backbone.",
    "encoder.",
    "net.model.",
    "module.backbone._orig_mod.",
    "any.word.3.",
)
# What lies beside a backbone in the files of other frameworks: behind its prefix, or at the root.
BESIDE = {
    "classifier of ResNet": ("hrnet18", "linear.weight", ""),
    "classifier of torchvision": ("hrnet18", "fc.weight", ""),
    "classifier of timm": ("xception65", "head.fc.weight", ""),
    "classifier in the stem": ("resnet50", "stem.fc.weight", ""),
    "classifier of HRNet": ("hrnet18", "incre_modules.0.0.conv1.weight", ""),
    "a further stage": ("resnet50", "res6.0.conv1.weight", ""),
    "a norm of what follows": ("xception65", "bn9.weight", ""),
    "decoder": ("xception65", "", "decoder.aspp.convs.0.weight"),
    "loss": ("hrnet18", "last_layer.0.weight", "loss.criterion.weight"),
    "counter of averages": ("resnet50", "", "n_averaged"),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", BESIDE)
def test_a_backbone_is_found_with_other_things_beside_it(states, case, prefix):
    name, inside, outside = BESIDE[case]
    own = states[name]
    others = [prefix + inside] * bool(inside) + [outside] * bool(outside)
    tensors = behind(prefix, own) | dict.fromkeys(others, torch.zeros(1))
    wrong, found = faults(own, tensors)
    assert not wrong
    assert found.prefix == prefix
    assert found.tensors.keys() == own.keys()
    assert sum(found.left_out.values()) == len(others)
    assert all(any(other.startswith(part) for part in found.left_out) for other in others)


@pytest.mark.parametrize(
    ("own", "more"),
    [
        ("hrnet18", "layer1.9.conv1.weight"),  # a deeper network
        ("hrnet18", "stage4.3.branches.0.0.conv1.weight"),
        ("resnet50", "res3.1.se.fc1.weight"),  # blocks with something more in them
        ("resnet50", "stem.conv1.bias"),
        ("xception65", "bn1.gain"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_more_inside_of_its_layers_is_another_network(states, own, more, prefix):
    tensors = behind(prefix, states[own]) | {prefix + more: torch.zeros(1)}
    wrong, found = faults(states[own], tensors)
    assert wrong == {"unexpected": [more]}
    assert not found.left_out


def test_a_deeper_network_is_another_although_it_has_all_values(states):
    wrong, found = faults(states["resnet50"], states["resnet101"])
    assert {*wrong} == {"unexpected"}
    assert found.tensors.keys() == states["resnet101"].keys()


def test_where_names_are_missing_the_others_may_be_them(states):
    own = states["hrnet18"]
    tensors = {name: value for name, value in own.items() if name != "conv1.weight"}
    wrong, _ = faults(own, tensors | {"conv0.weight": torch.zeros(1)})
    assert wrong == {"missing": ["conv1.weight"], "unexpected": ["conv0.weight"]}


def test_of_a_whole_model_nothing_is_left_out_but_what_is_outside_of_it(states):
    own = behind("backbone.", states["hrnet18"]) | {"head.weight": torch.zeros(1)}
    more = {"head2.weight": torch.zeros(1), "pixel_mean": torch.zeros(3)}
    wrong, found = faults(own, own | more, whole=True)
    assert wrong == {"unexpected": ["head2.weight"]}
    assert found.left_out == {"pixel_mean": 1}
    wrong, found = faults(own, behind("model.", own) | {"loss.weight": torch.zeros(1)}, whole=True)
    assert not wrong
    assert found.left_out == {"loss": 1}


@pytest.mark.parametrize("word", ["module", "_orig_mod"])
def test_a_part_of_a_model_may_be_wrapped_by_itself(states, word):
    own = behind("backbone.", states["hrnet18"]) | {"head.weight": torch.zeros(1)}
    tensors = behind(f"backbone.{word}.", states["hrnet18"]) | {"head.weight": torch.zeros(1)}
    wrong, found = faults(own, tensors, whole=True)
    assert not wrong
    assert found.tensors.keys() == own.keys()


def test_statistics_are_found_anywhere():
    tensors = {"module.pixel_mean": torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)}
    assert find_statistics(tensors) == {"pixel_mean": (1.0, 2.0, 3.0)}


def test_resembling_names_are_not_taken(states):
    """One letter more: nothing is matched by likeness."""
    wrong, found = faults(states["hrnet18"], {f"{n}s": t for n, t in states["hrnet18"].items()})
    assert len(wrong["missing"]) == 1525
    assert not found.tensors.keys() & states["hrnet18"].keys()


def test_two_networks_of_one_file_need_a_prefix():
    own = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    other = {name: value + 1 for name, value in own.items()}
    tensors = behind("student.", own) | behind("teacher.", other)
    with pytest.raises(WeightsError, match=r"'student\.' and 'teacher\.'.*--prefix"):
        fit(own, tensors)
    assert fit(own, tensors, prefix="teacher.").tensors["a.weight"][0] == 1
    assert fit(own, behind("student.", own) | behind("teacher.", own)).prefix == "student."


def test_names_of_a_million_modules_take_no_time():
    own = {"a.weight": torch.zeros(2)}
    deep = "a." * 500_000 + "weight"
    found = fit(own, {"x.a.weight": torch.zeros(2), deep: torch.zeros(2)})
    assert found.prefix == "x."
