"""Pixels go to the center that Detectron2 gives them, many, far or equally near."""

import math

import pytest
import torch

from tests.postprocess.detectron2_reference import (
    assert_equal_to_reference,
    random_maps,
)


def test_more_centres_than_cells_can_settle():
    """A center on every other pixel: bounds settle nothing, and rounding decides a lot."""
    maps = random_maps(32, 36, seed=3, noise=5.0)
    heatmap = torch.zeros(1, 32, 36)
    heatmap[0, ::2, ::2] = 1
    _, centers = assert_equal_to_reference(maps[0], heatmap, maps[2], nms_kernel=1, top_k=None)
    assert centers.shape[1] == 16 * 18


def test_no_centres():
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=1)
    panoptic, centers = assert_equal_to_reference(sem_seg, heatmap * 0, offsets)
    assert centers.shape == (1, 0, 2)
    assert (panoptic[(sem_seg >= 3) & (sem_seg <= 6)] == -1).all()


@pytest.mark.parametrize("offset", [1e4, -1e7, 1e10, 1e16, 1e20, math.inf, -math.inf, math.nan])
def test_offsets_far_outside(offset):
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=2)
    offsets[0, 5:15] = offset
    offsets[1, :, 8:16] = -offset
    _, centers = assert_equal_to_reference(sem_seg, heatmap, offsets)
    assert centers.shape[1] > 2


def test_equidistant_centres_and_equal_votes():
    """Two centers, mirrored pixels, two classes with as many votes: first center, lowest class."""
    sem_seg = torch.full((1, 9, 9), 5)
    sem_seg[0, :, ::2] = 3
    heatmap = torch.zeros(1, 9, 9)
    heatmap[0, 4, [1, 7]] = 1
    panoptic, _ = assert_equal_to_reference(sem_seg, heatmap, torch.zeros(2, 9, 9), nms_kernel=3)
    assert panoptic[0, 0, 4] == panoptic[0, 0, 0] == 3001
    sem_seg[0, :, :4], sem_seg[0, :, 4:] = 5, 5
    sem_seg[0, :3, 5:] = 3  # the right group has 12 pixels of class 3 and 24 of 5
    sem_seg[0, 3:6, 5:] = 4
    panoptic, _ = assert_equal_to_reference(sem_seg, heatmap, torch.zeros(2, 9, 9), nms_kernel=3)
    assert set(panoptic[0, :, 5:].flatten().tolist()) == {3001}


def test_rounding_that_single_precision_alone_decides():
    """Points whose two distances differ by less than a float's last place."""
    generator = torch.Generator().manual_seed(0)
    sem_seg = torch.full((1, 64, 64), 3)
    heatmap = torch.zeros(1, 64, 64)
    heatmap[0, [10, 10, 50], [10, 50, 30]] = 1
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ring = torch.rand((64, 64), generator=generator) * 400 - 200
    # Onto the line that halves the way between the two upper centers, give or take a last place.
    jitter = (torch.rand((64, 64), generator=generator) - 0.5) * 2e-5
    offsets = torch.stack((ring - y, 30 + jitter - x))
    panoptic, _ = assert_equal_to_reference(sem_seg, heatmap, offsets)
    assert len(panoptic.unique()) == 3
    exact = torch.stack((y, x)).double() + offsets.double()
    centers = torch.tensor([[10.0, 10], [10, 50], [50, 30]]).double()
    distance = (exact[:, None] - centers.T[:, :, None, None]).pow(2).sum(0)
    assert (distance.argmin(0) + 3001 != panoptic[0]).sum() > 10, "the case has lost its teeth"


def test_a_single_point_that_is_almost_a_tie():
    """Laid out alone it would be summed in another way, and rounded to another center."""
    centers = torch.tensor([[3, 4], [10, 25]])
    heatmap = torch.zeros(1, 30, 30)
    heatmap[0, centers[:, 0], centers[:, 1]] = 1
    sem_seg = torch.zeros(1, 30, 30, dtype=torch.int64)
    sem_seg[0, [0, 3, 10], [0, 4, 25]] = 3
    generator = torch.Generator().manual_seed(0)
    along = torch.tensor([21.0, -7.0])  # at right angles to the line between the two
    along /= along.norm()
    winners = set()
    for distance in torch.rand(200, generator=generator) * 200 - 100:
        offsets = torch.zeros(2, 30, 30)
        offsets[:, 0, 0] = centers.float().mean(dim=0) + distance * along
        panoptic, _ = assert_equal_to_reference(
            sem_seg, heatmap, offsets, nms_kernel=1, stuff_area=0
        )
        winners.add(int(panoptic[0, 0, 0]))
    assert winners == {3001, 3002}
    offsets[:, 0, 0] = torch.tensor([-110.7615966796875, 53.58720016479492])
    assert_equal_to_reference(sem_seg, heatmap, offsets, nms_kernel=1, stuff_area=0)
