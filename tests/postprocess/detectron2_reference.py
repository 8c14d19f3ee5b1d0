"""Detectron2's post-processing, and maps to run it on.

Shapes: H W pixels.
"""

import warnings

import torch
from detectron2.projects.panoptic_deeplab.post_processing import (
    get_panoptic_segmentation as detectron2s,
)
from torch import Tensor

from panoptic_dl.postprocess import get_panoptic_segmentation

ARGUMENTS = {
    "thing_ids": (3, 4, 5, 6),
    "label_divisor": 1000,
    "stuff_area": 30,
    "void_label": -1,
    "threshold": 0.1,
    "nms_kernel": 7,
    "top_k": 20,
}


def reference(sem_seg: Tensor, heatmap: Tensor, offsets: Tensor, **arguments):
    """Detectron2's function on copies, whatever it writes into."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        return detectron2s(sem_seg.clone(), heatmap.clone(), offsets.clone(), **arguments)


def assert_equal_to_reference(sem_seg, heatmap, offsets, **changes):
    """Hold ours against Detectron2's; return the panoptic map and the centers."""
    arguments = ARGUMENTS | changes
    before = [maps.clone() for maps in (sem_seg, heatmap, offsets)]
    panoptic, centers = get_panoptic_segmentation(sem_seg, heatmap, offsets, **arguments)
    for maps, copy in zip((sem_seg, heatmap, offsets), before, strict=True):
        assert torch.equal(maps.nan_to_num(7), copy.nan_to_num(7)), "an input was changed"
    expected, expected_centers = reference(sem_seg, heatmap, offsets, **arguments)
    assert panoptic.dtype == expected.dtype
    assert centers.dtype == expected_centers.dtype
    assert torch.equal(centers, expected_centers)
    assert torch.equal(panoptic, expected)
    return panoptic, centers


def random_maps(height, width, seed, *, num_centers=6, noise=2.0, classes=8):
    """Coarse classes, a heatmap with peaks, and offsets that point to them, all with noise."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator)

    coarse = torch.randint(0, classes, (-(-height // 4), -(-width // 4)), generator=generator)
    sem_seg = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    heatmap = 0.05 * uniform(height, width)
    centers = (uniform(num_centers, 2) * torch.tensor([height, width])).long()
    for row, column in centers.tolist():
        bump = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 8.0)
        heatmap = torch.maximum(heatmap, bump * (0.3 + 0.7 * float(uniform())))
    to_center = centers.T[:, :, None, None] - torch.stack((y, x))[:, None]  # (2, K, H, W)
    distance = to_center.double().pow(2).sum(0)
    nearest = distance.argmin(0)[None, None].expand(2, 1, height, width)
    offsets = to_center.gather(1, nearest).squeeze(1).float()
    offsets += noise * torch.randn((2, height, width), generator=generator)
    return sem_seg[None].contiguous(), heatmap[None], offsets
