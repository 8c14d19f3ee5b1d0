"""Heads: arguments that fit or are refused, pooling for images of any size, losses."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ASPP, ShapeSpec
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.panoptic_deeplab.panoptic_seg import PanopticDeepLabInsEmbedHead
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from panoptic_dl.config import build, compose
from panoptic_dl.core.classes import Classes
from panoptic_dl.models import instance_branch, semantic_branch, semantic_head
from panoptic_dl.models.heads import (
    ClampedAvgPool2d,
    _DiceLoss,
    _finish,
    _WeightedCrossEntropy,
    class_weights,
)

SHAPES = {
    "res2": ShapeSpec(channels=4, stride=4),
    "res3": ShapeSpec(channels=6, stride=8),
    "res5": ShapeSpec(channels=8, stride=32),
}
ARGUMENTS = {
    "in_features": ["res2", "res5"],
    "project_channels": [5],
    "aspp_channels": 16,
    "aspp_dilations": [3, 6, 9],
    "decoder_dim": 12,
    "norm": "BN",
    "train_size": [64, 96],
}
FACTORIES = {
    "semantic_branch": lambda **changes: semantic_branch(
        SHAPES, **{**ARGUMENTS, "num_classes": 3, **changes}
    ),
    "instance_branch": lambda **changes: instance_branch(SHAPES, **{**ARGUMENTS, **changes}),
    "semantic_head": lambda **changes: semantic_head(
        SHAPES, **{**ARGUMENTS, "num_classes": 3, **changes}
    ),
}


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


def find_aspp(head):
    (aspp,) = (module for module in head.modules() if isinstance(module, ASPP))
    return aspp


def test_only_the_named_features_are_used_with_the_named_channels(factory):
    head = factory()
    assert head.in_features == ["res2", "res5"]
    assert head.decoder["res2"]["project_conv"].weight.shape[:2] == (5, 4)
    assert head.decoder["res2"]["fuse_conv"][1].out_channels == 12
    assert find_aspp(head).project.out_channels == 16


@pytest.mark.parametrize(
    ("train_size", "kernel"),
    [((64, 96), (2, 3)), ((65, 1), (3, 1)), ((63, 97), (2, 4)), ((512, 1024), (16, 32))],
)
def test_image_pooling_spans_the_padded_crop(factory, train_size, kernel):
    assert find_aspp(factory(train_size=train_size)).convs[-1][0].kernel_size == kernel


def test_finer_features_still_pool_over_the_crop_as_models_pad_it():
    """33 pixels become 64, so 4 of stride 16, although 3 would hold them."""
    shapes = {"res5": ShapeSpec(channels=8, stride=16)}
    changes = {"in_features": ["res5"], "project_channels": [], "common_stride": 16}
    head = instance_branch(shapes, **{**ARGUMENTS, **changes, "train_size": (33, 65)})
    assert find_aspp(head).convs[-1][0].kernel_size == (4, 6)


def test_omegaconf_lists_are_taken(factory):
    node = OmegaConf.create(ARGUMENTS)
    factory(**{name: node[name] for name in node})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": ["res2", "res4"]}, r"\['res4'\]: the backbone returns .*'res5'"),
        ({"in_features": []}, "names nothing"),
        ({"project_channels": [5, 6]}, "must have one number for each"),
        ({"aspp_dilations": [6, 12]}, "must be three numbers"),
        ({"common_stride": 8}, "common_stride=8 must be the stride of the finest"),
        ({"norm": "Bn"}, "norm='Bn' is unknown"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(factory, changes, message):
    with pytest.raises(ValueError, match=message):
        factory(**changes)


@pytest.mark.parametrize("name", ["semantic_branch", "semantic_head"])
def test_an_unknown_loss_is_refused(name):
    with pytest.raises(ValueError, match=r"loss_type=lovasz is unknown; choose .*focal, dice"):
        FACTORIES[name](loss_type="lovasz")


@pytest.mark.parametrize("name", ["semantic_branch", "semantic_head"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights must be 3 numbers, at least 0"),
        ({"class_weights": [1.0, 2.0, -1.0]}, "class_weights must be 3 numbers, at least 0"),
        (
            {"loss_type": "focal", "focal_gamma": 0.5},
            "focal_gamma=0.5 must be a number, at least 1",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        FACTORIES[name](**change)


@pytest.mark.parametrize("name", ["semantic_branch", "semantic_head"])
@pytest.mark.parametrize("share", [0, 1.5])
def test_an_impossible_share_of_pixels_is_refused(name, share):
    with pytest.raises(ValueError, match="loss_top_k"):
        FACTORIES[name](loss_top_k=share)


def test_cross_entropy_works_with_pixel_weights():
    """Detectron2's own head raises here."""
    head = FACTORIES["semantic_branch"](loss_type="cross_entropy", head_channels=8).train()
    features = {name: torch.randn(1, s.channels, 64 // s.stride, 64 // s.stride)
                for name, s in SHAPES.items()}  # fmt: skip
    labels = torch.randint(0, 3, (1, 64, 64))
    _, plain = head(features, labels)
    _, doubled = head(features, labels, torch.full((1, 64, 64), 2.0))
    assert plain["loss_sem_seg"].isfinite()
    assert not torch.equal(plain["loss_sem_seg"], doubled["loss_sem_seg"])


def test_weighted_cross_entropy():
    loss = _WeightedCrossEntropy(255)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0] = 255
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss(logits, labels, torch.full((2, 4, 5), 3.0)), 3 * expected)
    assert loss(logits, torch.full_like(labels, 255)) == 0


def some_pixels(classes=4):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (2, 5, 6), generator=random)
    labels[0, :2] = 255
    return torch.randn(2, classes, 5, 6, generator=random, requires_grad=True), labels


def test_class_weights_of_the_cross_entropy_are_those_of_torch():
    logits, labels = some_pixels()
    weight = torch.tensor([0.5, 2.0, 0.0, 3.0])
    expected = F.cross_entropy(logits, labels, weight, ignore_index=255)
    torch.testing.assert_close(_WeightedCrossEntropy(255, 0.0, weight)(logits, labels), expected)


def test_focal_loss_of_two_classes_is_that_of_torchvision():
    logits, labels = some_pixels(2)
    expected = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], labels.clamp(max=1).float(), alpha=-1, gamma=3.0
    )
    found = _WeightedCrossEntropy(255, 3.0)(logits, labels)
    torch.testing.assert_close(found, expected[labels != 255].mean())
    found.backward()
    assert logits.grad.isfinite().all()
    sure = 200 * F.one_hot(labels.clamp(max=1), 2).movedim(3, 1).float()
    assert _WeightedCrossEntropy(255, 3.0)(sure, labels) == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_dice_loss_is_its_formula(weighted):
    logits, labels = some_pixels()
    labels[labels == 2] = 1  # a class that is not there
    of_pixels = torch.rand(2, 5, 6) if weighted else torch.ones(2, 5, 6)
    of_classes = torch.tensor([0.5, 2.0, 7.0, 3.0]) if weighted else torch.ones(4)
    shares, total, probabilities = 0.0, 0.0, logits.softmax(1)
    for number in (0, 1, 3):
        here = (labels == number).float() * of_pixels
        known = (labels != 255).float() * of_pixels
        p = probabilities[:, number]
        dice = 2 * (p * here).sum() / ((p * known).sum() + here.sum())
        shares, total = shares + of_classes[number] * (1 - dice), total + of_classes[number]
    arguments = (logits, labels, of_pixels) if weighted else (logits, labels)
    found = _DiceLoss(255, of_classes if weighted else None)(*arguments)
    torch.testing.assert_close(found, shares / total)
    found.backward()
    assert logits.grad.isfinite().all()
    assert _DiceLoss(255)(logits, torch.full_like(labels, 255)) == 0


def test_hard_pixel_mining_takes_class_weights_and_keeps_its_state():
    weight = [0.5, 2.0, 1.0]
    for name in ("semantic_branch", "semantic_head"):
        plain = FACTORIES[name](loss_top_k=0.1)
        head = FACTORIES[name](class_weights=weight, loss_top_k=0.1)
        logits, labels = some_pixels(3)
        expected = DeepLabCE(255, 0.1, torch.tensor(weight))(logits, labels)
        assert torch.equal(head.loss(logits, labels), expected)
        assert torch.equal(plain.loss(logits, labels), DeepLabCE(255, 0.1)(logits, labels))
        for loss in ("hard_pixel_mining", "focal", "dice", "cross_entropy"):
            other = FACTORIES[name](class_weights=weight, loss_type=loss)
            assert other.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_losses_are_chosen_by_name(task):
    def made(*words):
        config = compose([f"task={task}", "backbone=hrnet_tiny", *words])
        head = build(config.task.model.sem_seg_head)
        return head.func(SHAPES, **{**head.keywords, **ARGUMENTS, "num_classes": 19}).loss

    assert isinstance(made(), DeepLabCE)
    assert made("dataset.loss_top_k=0.7").top_k_percent_pixels == 0.7
    assert made("loss=focal").gamma == 2
    assert made("loss=cross_entropy").gamma == 0
    loss = made("loss=[dice,class_weights]", "class_weights={rider: 3, road: 0.5}")
    assert isinstance(loss, _DiceLoss)
    assert loss.class_weights.tolist() == [0.5, *[1] * 11, 3, *[1] * 6]


def test_weights_of_classes_are_by_name():
    classes = Classes(names=["a", "b"], colors=[(0, 0, 0), (1, 1, 1)], thing_ids=[1])
    assert class_weights(classes, {"b": 2}) == [1, 2]
    assert class_weights(classes, None) == [1, 1]
    with pytest.raises(ValueError, match="there is no class c; the classes are a, b"):
        class_weights(classes, {"c": 2})
    for wrong in (3, [1, 2]):
        with pytest.raises(ValueError, match=r"must be such as \{a: 3\}"):
            class_weights(classes, wrong)
    with pytest.raises(ValueError, match=r"class_weights\.a=many must be a number"):
        class_weights(classes, {"a": "many"})


side = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(side, side, side, side)
def test_equals_avg_pool_where_that_works_and_else_spans_the_axis(height, width, high, wide):
    x = torch.randn(2, 3, height, width)
    actual = ClampedAvgPool2d((high, wide))(x)
    if high <= height and wide <= width:
        assert torch.equal(actual, nn.AvgPool2d((high, wide), stride=1)(x))
    else:
        assert actual.shape[-2:] == (max(1, height - high + 1), max(1, width - wide + 1))
    if high >= height and wide >= width:
        torch.testing.assert_close(actual, x.mean((2, 3), keepdim=True))


# Features of the published crops (Cityscapes 512 x 1024, COCO 640 x 640) at strides 16 and 32, in
# training, and of the full Cityscapes image.
@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((32, 64), (32, 64)),
        ((16, 32), (16, 32)),
        ((40, 40), (40, 40)),
        ((20, 20), (20, 20)),
        ((16, 32), (32, 64)),
    ],
)
@pytest.mark.parametrize("separable", [False, True])
def test_published_sizes_are_unchanged_bit_for_bit(kernel, size, separable):
    torch.manual_seed(0)
    reference = ASPP(
        8,
        4,
        [3, 6, 9],
        norm="BN",
        activation=F.relu,
        pool_kernel_size=kernel,
        use_depthwise_separable_conv=separable,
    )
    ours = _finish(nn.Sequential(copy.deepcopy(reference)))[0]
    assert list(ours.state_dict()) == list(reference.state_dict())
    x = torch.randn(2, 8, *size)
    results = []
    for aspp in (reference, ours):
        inputs = x.clone().requires_grad_()
        y = aspp(inputs)
        y.square().sum().backward()
        results.append([y, inputs.grad, *(p.grad for p in aspp.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_detectron2_still_refuses_other_sizes():
    """If this fails, Detectron2 has learnt it, and image_pooling.py may go."""
    aspp = ASPP(8, 4, [3, 6, 9], norm="", activation=F.relu, pool_kernel_size=(4, 4))
    x = torch.randn(1, 8, 5, 3)
    with pytest.raises(ValueError, match="pool_kernel_size"):
        aspp(x)
    assert _finish(nn.Sequential(aspp))(x).shape == (1, 4, 5, 3)


def test_global_pooling_is_left_alone():
    aspp = ASPP(8, 4, [3, 6, 9], norm="", activation=F.relu)
    _finish(nn.Sequential(aspp))
    assert isinstance(aspp.convs[-1][0], nn.AdaptiveAvgPool2d)


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            2, shape.channels, 64 // shape.stride, 96 // shape.stride, generator=generator
        )
        for name, shape in SHAPES.items()
    }


def test_predictions_are_float32_in_any_autocast_and_offsets_keep_parts_of_pixels(factory):
    """bfloat16 would make offsets of 900 pixels multiples of 4."""
    head = factory().eval()
    if hasattr(head, "offset_predictor"):
        head.offset_predictor.bias.data.fill_(225.3)  # in strides of 4 pixels
        head.offset_predictor.weight.data.normal_(std=0.01)
    inputs = features()
    with torch.no_grad():
        plain = head(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert head.layers({n: f.clone() for n, f in inputs.items()})[0].dtype == torch.float32
            half = head(inputs)
    for ours, exact in zip(half, plain, strict=True):
        if isinstance(exact, torch.Tensor):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, exact, rtol=0, atol=0.05)
    if hasattr(head, "offset_predictor"):
        offsets = half[1]
        assert offsets.min() > 890
        steps = offsets.diff(dim=-1).abs()
        assert 0 < steps[steps > 0].median() < 0.5


def detectron2s(head, name, *arguments):
    """The losses of the head's class in Detectron2."""
    return getattr(PanopticDeepLabInsEmbedHead, name)(head, *arguments)


@pytest.mark.parametrize("labeled", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("half", [False, True])
def test_instance_losses_are_those_of_detectron2_to_the_last_bit(labeled, half):
    head = FACTORIES["instance_branch"]()
    generator = torch.Generator().manual_seed(1)
    for name, channels in (("center_losses", 1), ("offset_losses", 2)):
        predicted = torch.randn(2, channels, 8, 12, generator=generator)
        targets = 9 * torch.randn(2, channels, 32, 48, generator=generator)
        weights = (torch.rand(2, 1, 32, 48, generator=generator) < labeled).float() * 0.25
        found, gradients = [], []
        for losses in (getattr(head, name), partial(detectron2s, head, name)):
            leaf = predicted.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                (loss,) = losses(leaf, targets, weights).values()
            loss.backward()
            found.append(loss)
            gradients.append(leaf.grad)
        assert torch.equal(*found)
        assert torch.equal(*gradients)
        assert (found[0] > 0) == (labeled > 0)
