"""Panoptic-DeepLab's inputs and outputs, held against Detectron2's own meta-architecture."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.projects.panoptic_deeplab import PanopticDeepLab as Reference
from omegaconf import OmegaConf

from tests.models.tiny_models import (
    NUM_CLASSES,
    THINGS,
    build_backbone,
    build_panoptic,
    make_sample,
)


@pytest.fixture(scope="module")
def model():
    return build_panoptic()


def give_maps(model, height, width, seed):
    """Let the heads return smooth random maps of (height, width), with some clear centers."""
    generator = torch.Generator().manual_seed(seed)

    def blobs(channels, cells):
        coarse = torch.randn((1, channels, *cells), generator=generator)
        return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)

    sem_seg, center, offset = (
        4 * blobs(NUM_CLASSES, (4, 6)),
        blobs(1, (8, 12)).sigmoid(),
        9 * blobs(2, (8, 12)),
    )
    model.sem_seg_head.forward = lambda features, *targets: (sem_seg, {})
    model.ins_embed_head.forward = lambda features, *targets: (center, offset, {}, {})


def run_reference(model, batched_inputs):
    """Detectron2's forward pass on our parts; its constructor takes nothing but an old config."""
    stub = SimpleNamespace(
        backbone=model.backbone,
        sem_seg_head=model.sem_seg_head,
        ins_embed_head=model.ins_embed_head,
        pixel_mean=model.pixel_mean,
        pixel_std=model.pixel_std,
        device=model.device,
        training=model.training,
        size_divisibility=model.size_divisibility,
        meta=SimpleNamespace(
            thing_dataset_id_to_contiguous_id=dict(enumerate(THINGS)),
            label_divisor=model.label_divisor,
        ),
        stuff_area=model.stuff_area,
        threshold=model.center_threshold,
        nms_kernel=model.nms_kernel,
        top_k=model.top_k,
        predict_instances=True,
        benchmark_network_speed=False,
    )
    return Reference.forward(stub, batched_inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("output", [{}, {"height": 97, "width": 141}])
@pytest.mark.parametrize("changes", [{}, {"stuff_area": 600, "nms_kernel": 5, "top_k": 8}])
def test_predictions_equal_the_reference(seed, output, changes):
    model = build_panoptic(**changes).eval()
    give_maps(model, 64, 96, seed)
    image = make_sample(60, 90)["image"]
    with torch.no_grad():
        ours = model([{"image": image, **output}])[0]
        theirs = run_reference(model, [{"image": image, "height": 60, "width": 90, **output}])[0]
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
    assert ours["panoptic_seg"][1] is None
    mine, expected = ours["instances"], theirs["instances"]
    assert len(expected) > 2
    assert mine.image_size == expected.image_size
    assert set(mine.get_fields()) - {"panoptic_ids"} == set(expected.get_fields())
    for name in ("pred_classes", "pred_masks"):
        assert torch.equal(mine.get(name), expected.get(name))
        assert mine.get(name).dtype == expected.get(name).dtype
    torch.testing.assert_close(mine.scores, expected.scores, rtol=1e-6, atol=0)
    assert torch.equal(mine.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_offsets_can_grow_with_the_prediction():
    """Of an output of other size: what Detectron2's function makes of offsets scaled likewise."""
    model = build_panoptic(scale_offsets=True).eval()
    give_maps(model, 64, 96, seed=0)
    sample = {"image": make_sample(64, 96)["image"], "height": 128, "width": 288}
    with torch.no_grad():
        panoptic = model([sample])[0]["panoptic_seg"][0]
        sem_seg, center, offset = model.network(torch.zeros(1, 3, 64, 96))
        offset = offset * torch.tensor([2.0, 3.0]).view(2, 1, 1)
        model.network = lambda images: (sem_seg, center, offset)
        model.scale_offsets = False
        assert torch.equal(panoptic, model([sample])[0]["panoptic_seg"][0])
        model.network = lambda images: (sem_seg, center, offset * 1.5)
        assert not torch.equal(panoptic, model([sample])[0]["panoptic_seg"][0])


def test_without_logits_the_panoptic_map_is_the_same():
    samples = [{"image": make_sample(60, 90)["image"]}, {"image": make_sample(33, 64)["image"]}]
    samples[1] |= {"height": 71, "width": 50}
    model = build_panoptic(stuff_area=1, nms_kernel=5).eval()
    generator = torch.Generator().manual_seed(0)
    sem_seg, center, offset = (
        torch.randn((2, channels, 16, 24), generator=generator) for channels in (NUM_CLASSES, 1, 2)
    )
    model.sem_seg_head.layers = lambda features: sem_seg
    model.ins_embed_head.layers = lambda features: (center.sigmoid(), offset)
    with torch.no_grad():
        expected = model(samples)
        model.predict_semantic = model.predict_instances = False
        outputs = model(samples)
    for output, full in zip(outputs, expected, strict=True):
        assert set(output) == {"panoptic_seg"}
        assert torch.equal(output["panoptic_seg"][0], full["panoptic_seg"][0])
        assert len(output["panoptic_seg"][0].unique()) > 10


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_equal_the_reference(weighted):
    model = build_panoptic(head={"aspp_dropout": 0.0}, size_divisibility=160).train()
    samples = [make_sample(60, 90), make_sample(70, 65, seed=1)]
    if not weighted:
        for sample in samples:
            del sample["sem_seg_weights"]
    ours, theirs = model(samples), run_reference(model, samples)
    assert list(ours) == ["loss_sem_seg", "loss_center", "loss_offset"]
    assert ours == theirs


def test_pixel_weights_are_optional_but_not_for_half_a_batch(model):
    model.train()
    samples = [make_sample(32, 32), make_sample(32, 32)]
    del samples[1]["sem_seg_weights"]
    with pytest.raises(KeyError, match="sem_seg_weights"):
        model(samples)
    del samples[0]["sem_seg_weights"]
    assert model(samples)["loss_sem_seg"].isfinite()


def test_no_things_give_empty_instances():
    model = build_panoptic(stuff_area=10**9, center_threshold=1e9).eval()
    with torch.no_grad():
        output = model([{"image": make_sample(32, 40)["image"]}])[0]
    instances = output["instances"]
    assert (output["panoptic_seg"][0] == -1).all()
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 32, 40)
    assert instances.pred_boxes.tensor.shape == (0, 4)
    assert instances.pred_classes.dtype == torch.int64
    assert instances.scores.shape == (0,)


def test_instances_can_be_left_out():
    model = build_panoptic(predict_instances=False).eval()
    sample = {"image": make_sample(32, 32)["image"]}
    with torch.no_grad():
        assert set(model([sample])[0]) == {"sem_seg", "panoptic_seg", "classes"}
        model.predict_semantic, model.predict_instances = False, True
        assert set(model([sample])[0]) == {"instances", "panoptic_seg"}


def test_more_centres_allowed_than_pixels_there_are():
    model = build_panoptic(top_k=2000, label_divisor=10000).eval()
    give_maps(model, 32, 32, seed=0)
    with torch.no_grad():
        output = model([{"image": make_sample(32, 32)["image"]}])[0]
    assert output["panoptic_seg"][0].max() > 0


def test_half_precision_maps_are_grouped_in_float():
    """Coordinates above 256 do not fit into bfloat16."""
    model = build_panoptic().eval()
    give_maps(model, 64, 320, seed=0)
    image = make_sample(64, 320)["image"]
    with torch.no_grad():
        sem_seg = model.sem_seg_head(None)[0].bfloat16()
        center, offset = (x.bfloat16() for x in model.ins_embed_head(None)[:2])
        results = []
        for convert in (torch.Tensor.float, lambda x: x):
            maps = [convert(x) for x in (sem_seg, center, offset)]
            model.sem_seg_head.forward = lambda f, maps=maps: (maps[0], {})
            model.ins_embed_head.forward = lambda f, maps=maps: (maps[1], maps[2], {}, {})
            results.append(model([{"image": image}])[0]["panoptic_seg"][0])
    assert torch.equal(*results)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([{"image": torch.zeros(1, 64, 64)}], r"shape \(1, 64, 64\): expected \(3, H, W\)"),
        ([{"image": torch.zeros(64, 64)}], r"shape \(64, 64\): expected \(3, H, W\)"),
        ([{"image": torch.zeros(3, 64, 0)}], "64 x 0 pixels: leave it out"),
    ],
)
def test_a_wrong_image_is_described(model, training, batch, message):
    with pytest.raises(ValueError, match=message):
        model.train(training)(batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nms_kernel": 6}, "nms_kernel=6 must be odd"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1000}, "label_divisor=1000"),
        ({"size_divisibility": 48}, "coarsest stride, 32"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build_panoptic(**changes)


def test_omegaconf_lists_and_integers_are_taken():
    lists = {"pixel_mean": [1, 2, 3], "pixel_std": [4, 5, 6], "thing_ids": [3, 4]}
    model = build_panoptic(**OmegaConf.create(lists))
    assert model.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert model.thing_ids == THINGS
    assert all("pixel" not in name for name in model.state_dict())


def test_uint8_images_equal_float_images(model):
    image = make_sample(32, 32)["image"].round()
    with torch.no_grad():
        outputs = [model.eval()([{"image": x}])[0]["sem_seg"] for x in (image, image.byte())]
    assert torch.equal(*outputs)


def test_a_backbone_that_states_no_divisibility_is_padded_to_its_coarsest_stride():
    backbone = build_backbone()
    silent = type("Silent", (type(backbone),), {"size_divisibility": Backbone.size_divisibility})
    backbone.__class__ = silent
    assert backbone.size_divisibility == 0
    model = build_panoptic(backbone).train()
    assert all(loss.isfinite() for loss in model([make_sample(45, 70)]).values())
