"""Instances as Detectron2's model makes them, one by one, from its own panoptic map.

Shapes: K classes, H W pixels.
"""

from types import SimpleNamespace

import pytest
import torch
from detectron2.projects.panoptic_deeplab import PanopticDeepLab as Reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from panoptic_dl.postprocess import instances_from_panoptic
from tests.postprocess.detectron2_reference import ARGUMENTS, random_maps

NUM_CLASSES = 8


class Heads(nn.Module):
    """Hands on fixed outputs."""

    size_divisibility = 1

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, *inputs):
        return self.outputs


def run_reference(logits, heatmap, offsets, **changes):
    """Detectron2's forward pass on stub parts: its panoptic map (H, W) and `Instances`."""
    arguments = ARGUMENTS | changes
    stub = SimpleNamespace(
        backbone=Heads(),
        sem_seg_head=Heads(logits[None], {}),
        ins_embed_head=Heads(heatmap[None].clone(), offsets[None], {}, {}),
        device=torch.device("cpu"),
        pixel_mean=torch.zeros(1, 1, 1),
        pixel_std=torch.ones(1, 1, 1),
        training=False,
        size_divisibility=1,
        meta=SimpleNamespace(
            thing_dataset_id_to_contiguous_id={i: i for i in arguments["thing_ids"]},
            label_divisor=arguments["label_divisor"],
        ),
        stuff_area=arguments["stuff_area"],
        nms_kernel=arguments["nms_kernel"],
        threshold=arguments["threshold"],
        top_k=arguments["top_k"],
        predict_instances=True,
        benchmark_network_speed=False,
    )
    height, width = logits.shape[1:]
    inputs = [{"image": torch.zeros(1, height, width), "height": height, "width": width}]
    output = Reference.forward(stub, inputs)[0]
    return output["panoptic_seg"][0], output.get("instances", ())  # absent where there is none


def assert_same(logits, heatmap, offsets, **changes):
    panoptic, expected = run_reference(logits, heatmap, offsets, **changes)
    arguments = ARGUMENTS | changes
    ours = instances_from_panoptic(
        panoptic,
        logits,
        heatmap,
        thing_ids=arguments["thing_ids"],
        label_divisor=arguments["label_divisor"],
    )
    assert len(ours) == len(expected)
    if len(expected) == 0:
        return ours
    assert ours.image_size == expected.image_size
    assert torch.equal(ours.pred_classes, expected.pred_classes)
    assert torch.equal(ours.pred_masks, expected.pred_masks)
    assert torch.equal(ours.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=2e-6, atol=1e-9)
    return ours


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    seed=st.integers(0, 2**20),
    num_centers=st.integers(1, 12),
    stuff_area=st.sampled_from([1, 40]),
)
def test_random_scenes(height, width, seed, num_centers, stuff_area):
    sem_seg, heatmap, offsets = random_maps(height, width, seed, num_centers=num_centers)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((NUM_CLASSES, height, width), generator=generator)
    logits.scatter_add_(0, sem_seg, torch.full((1, height, width), 3.0))
    # The heatmap differs at every pixel, so a mean that falls on another pixel shows.
    heatmap = heatmap + 0.01 * torch.rand(heatmap.shape, generator=generator)
    assert_same(
        logits, heatmap, offsets, stuff_area=stuff_area, top_k=min(20, height * width), nms_kernel=3
    )


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("top", [300, 301, 1700])
@pytest.mark.parametrize("side", [401, 500, 777])
def test_means_of_large_instances_fall_on_detectron2s_pixel(top, side):
    """Sums above 2^24, whose mean is a whole number or a half: single precision decides."""
    height, width = top + side + 30, side + 30
    logits = torch.zeros(NUM_CLASSES, height, width)
    logits[0] = 1
    logits[3, top : top + side, 10 : 10 + side] = 2
    generator = torch.Generator().manual_seed(top + side)
    heatmap = 0.1 * torch.rand((1, height, width), generator=generator)
    heatmap[0, top + side // 2, 10 + side // 2] = 0.9
    ours = assert_same(logits, heatmap, torch.zeros(2, height, width), nms_kernel=3)
    assert len(ours) == 1


def test_void_stuff_and_nothing_make_no_instances():
    panoptic = torch.tensor([[-1, 0], [1000, 7000]])
    ours = instances_from_panoptic(
        panoptic, torch.zeros(8, 2, 2), torch.zeros(1, 2, 2), thing_ids={3, 4}, label_divisor=1000
    )
    assert len(ours) == 0
    assert ours.pred_masks.shape == (0, 2, 2)
    assert ours.pred_boxes.tensor.shape == (0, 4)
    assert ours.pred_classes.dtype == torch.int64


def test_what_a_gpu_would_do_is_the_same(monkeypatch):
    from panoptic_dl.postprocess import grouping, instances

    sem_seg, heatmap, offsets = random_maps(60, 70, seed=3, num_centers=9)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((NUM_CLASSES, 60, 70), generator=generator)
    logits.scatter_add_(0, sem_seg, torch.full((1, 60, 70), 3.0))
    for module in (grouping, instances):
        monkeypatch.setattr(module, "waits", lambda tensor: True)
    assert len(assert_same(logits, heatmap, offsets)) > 2


def test_what_is_not_a_number_stays_in_its_instance():
    panoptic = torch.full((4, 6), -1)
    panoptic[:, :2], panoptic[:, 4:] = 3001, 4001
    logits = torch.zeros(NUM_CLASSES, 4, 6)
    logits[:, 1, :3] = float("nan")
    logits[2, 2, 5], logits[4, 3, 5] = 1000, -float("inf")
    ours = instances_from_panoptic(
        panoptic, logits, torch.ones(1, 4, 6), thing_ids={3, 4}, label_divisor=1000
    )
    expected = logits.softmax(dim=0)[4, :, 4:].mean()
    assert ours.scores.isnan().tolist() == [True, False]
    torch.testing.assert_close(ours.scores[1], expected)


def test_logits_may_be_a_view_of_a_padded_batch():
    _, heatmap, offsets = random_maps(20, 24, seed=3)
    padded = torch.randn(NUM_CLASSES, 32, 40)
    panoptic, _ = run_reference(padded[:, :20, :24].contiguous(), heatmap, offsets)
    options = {"thing_ids": ARGUMENTS["thing_ids"], "label_divisor": 1000}
    view = instances_from_panoptic(panoptic, padded[:, :20, :24], heatmap, **options)
    whole = instances_from_panoptic(panoptic, padded[:, :20, :24].clone(), heatmap, **options)
    assert torch.equal(view.scores, whole.scores)
    assert len(view) > 0
