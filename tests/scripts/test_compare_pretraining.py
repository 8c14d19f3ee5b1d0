"""Weights of torchvision by timm's names, and classes that are merged."""

import json

import pytest
import timm
import torch
from torchvision.models import mobilenet_v2

from panoptic_dl.config import compose
from panoptic_dl.core.errors import WeightsError
from scripts.compare_pretraining import IMAGENET, MOVED, OTHER_CLASSES, to_timm, write_classes


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    for name, tensor in model.state_dict().items():  # no statistic or scale is 0 or 1, or another's
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
        elif "num_batches" in name:
            tensor.fill_(7)
    return model


def test_the_converted_network_computes_the_same(theirs):
    ours = timm.create_model("mobilenetv2_100").eval()
    ours.load_state_dict(to_timm(theirs.state_dict()))
    image = torch.rand(1, 3, 97, 129)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image), theirs.features(image))
        torch.testing.assert_close(ours(image), theirs(image))


def test_a_file_without_a_layer_or_of_another_width_is_refused(theirs):
    tensors = theirs.state_dict()
    del tensors["features.7.conv.1.0.weight"]
    with pytest.raises(WeightsError, match=r"features\.7\.conv\.1\.0\.weight"):
        to_timm(tensors)
    with pytest.raises(WeightsError, match=r"features\.0\.0\.weight"):
        to_timm(mobilenet_v2(width_mult=0.5).state_dict())


def test_classes_are_merged_renamed_and_kept(tmp_path):
    names = [*OTHER_CLASSES, "car"]
    segments = [{"id": 7, "category_id": n} for n in range(len(OTHER_CLASSES))]
    tree = {
        "categories": [{"id": n, "name": name, "isthing": 1} for n, name in enumerate(names)],
        "annotations": [{"segments_info": segments}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    write_classes(tmp_path / "coco.json", tmp_path / "other.json", OTHER_CLASSES)
    found = json.loads((tmp_path / "other.json").read_text())
    known = {category["id"]: category["name"] for category in found["categories"]}
    assert sorted(known.values()) == ["bear", "grass-merged", "hoofed animal", "surroundings"]
    written = [known[s["category_id"]] for s in found["annotations"][0]["segments_info"]]
    assert written == list(OTHER_CLASSES.values())


@pytest.mark.parametrize(("overrides", "iterations"), [(IMAGENET, 400), (MOVED, 80)])
def test_the_trainings_are_options_of_the_project(overrides, iterations):
    config = compose([*overrides, "dataset.root=nowhere"])
    assert (config.train.iterations, config.train.epochs) == (iterations, None)
