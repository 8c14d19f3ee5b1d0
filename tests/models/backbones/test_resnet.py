"""DeepLab's ResNets against Detectron2's own models, built from the configs of its projects."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

from panoptic_dl.config import build, compose
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.backbones.resnet import deeplab_resnet
from panoptic_dl.weights.load import load_to_train
from tests.models.tiny_models import build_panoptic, require_same, train_both

RECIPES = Path(__file__).parents[2] / "recipes"  # as Detectron2 resolves them
ROWS = (
    "cityscapes_panoptic_resnet52_conv",
    "cityscapes_panoptic_resnet52_dsconv",
    "coco_panoptic_resnet52_dsconv",
    "cityscapes_semantic_resnet103_conv",
)


def detectron2_model(row, crop):
    """The model that Detectron2 builds of the row's config, for small crops (H, W)."""
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load((RECIPES / f"{row}.yaml").read_text())))
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.CROP.SIZE = crop
    cfg.MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY = -1
    return build_model(cfg)


def both(row, crop):
    torch.manual_seed(0)
    theirs = detectron2_model(row, crop)
    overrides = [f"experiment={row}", f"dataset.crop_size=[{crop[0]},{crop[1]}]"]
    size = [] if "semantic" in row else ["dataset.size_divisibility=0"]
    ours = build(compose([*overrides, *size]).task.model)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def samples(num_classes, size, seed):
    random = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.rand(shape, generator=random)

    return [
        {
            "image": (255 * noise(3, *size)).byte(),
            "sem_seg": (num_classes * noise(*size)).long(),
            "sem_seg_weights": 1 + noise(*size),
            "center": noise(*size),
            "center_weights": torch.ones(1, *size),
            "offset": 20 * noise(2, *size) - 10,
            "offset_weights": torch.ones(1, *size),
            "height": size[0],
            "width": size[1],
        }
        for _ in range(2)
    ]


@pytest.fixture(autouse=True)
def things(monkeypatch):
    """Detectron2's model asks its catalog for the ids of things."""
    for name, ids in (
        ("cityscapes_fine_panoptic_train", range(11, 19)),
        ("coco_2017_train_panoptic", range(80)),
    ):
        if not hasattr(MetadataCatalog.get(name), "thing_dataset_id_to_contiguous_id"):
            MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {i: i for i in ids}


@pytest.mark.thorough
@pytest.mark.parametrize("row", ROWS)
def test_outputs_are_those_of_detectron2(row):
    theirs, ours = both(row, (64, 96))
    torch.manual_seed(1)
    for norm in ours.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    theirs.load_state_dict(ours.state_dict())
    batch = samples(5, (64, 96), seed=2)[:1]
    with torch.no_grad():
        expected, found = theirs.eval()(batch)[0], ours.eval()(batch)[0]
    assert torch.equal(found["sem_seg"], expected["sem_seg"])
    if "panoptic" in row:
        assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])


@pytest.mark.parametrize(
    ("row", "steps"),
    [
        pytest.param("cityscapes_panoptic_resnet52_conv", 10, marks=pytest.mark.slow),
        pytest.param("cityscapes_panoptic_resnet52_dsconv", 2, marks=pytest.mark.thorough),
        pytest.param("coco_panoptic_resnet52_dsconv", 10, marks=pytest.mark.slow),
        pytest.param("cityscapes_semantic_resnet103_conv", 10, marks=pytest.mark.slow),
    ],
)
def test_losses_and_training_steps_are_those_of_detectron2(row, steps):
    theirs, ours = both(row, (32, 64))
    results = []
    for model in (theirs, ours):
        torch.manual_seed(3)  # for dropout
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        model.train()
        losses = []
        for step in range(steps):
            parts = model(samples(19, (32, 64), seed=step))
            optimizer.zero_grad()
            sum(parts.values()).backward()
            optimizer.step()
            losses.append({name: loss.item() for name, loss in parts.items()})
        results.append(losses)
    assert results[0] == results[1]
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


@pytest.mark.parametrize("classifier", ["linear", "stem.fc"])
def test_the_pkl_of_the_model_zoo_loads_whole(tmp_path, classifier):
    """As tools/convert-torchvision-to-d2.py of Detectron2 writes it, with its classifier."""
    torch.manual_seed(0)
    source = deeplab_resnet(depth=50, norm="BN").state_dict()
    arrays = {k: v.numpy() for k, v in source.items() if not k.endswith("num_batches_tracked")}
    arrays[f"{classifier}.weight"] = np.zeros((10, 2048), np.float32)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-52.pkl").write_bytes(pickle.dumps(content))
    model = build_panoptic(deeplab_resnet(depth=50, norm="BN"))
    coverage = load_to_train(model, tmp_path / "R-52.pkl")
    assert coverage.percent == 100
    assert sum(coverage.left_out.values()) == 1
    for name, value in source.items():
        assert torch.equal(model.backbone.state_dict()[name], value), name


@pytest.mark.thorough
def test_recomputed_activations_change_nothing():
    def build_small():
        torch.manual_seed(0)
        return build_panoptic(deeplab_resnet(depth=50, norm="BN"))

    plain, changed, losses, others = train_both(build_small, steps=1)
    assert [{k: v.item() for k, v in one.items()} for one in losses] == [
        {k: v.item() for k, v in other.items()} for other in others
    ]
    require_same(plain, changed)
    assert recompute_activations(deeplab_resnet(depth=101)) == 3 + 4 + 23 + 3


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_and_frozen_stages(stride):
    with torch.device("meta"):
        backbone = deeplab_resnet(
            depth=50, norm="BN", output_stride=stride, freeze_at=2, out_features=("res4", "res5")
        )
        features = backbone(torch.randn(1, 3, 64, 96))
    assert {n: 64 // x.shape[2] for n, x in features.items()} == {
        name: shape.stride for name, shape in backbone.output_shape().items()
    }
    assert features["res5"].shape[2] == 64 // stride
    trained = {n.partition(".")[0] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}


@pytest.mark.parametrize(
    "options", [{"depth": 52}, {"depth": 50, "output_stride": 4}, {"depth": 50, "norm": "XN"}]
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="choose"):
        deeplab_resnet(**options)
