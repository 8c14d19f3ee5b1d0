"""Detectron2's own post-processing behind our interface: what benchmarks are a ratio against."""

import warnings
from collections.abc import Collection, Sequence

from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from torch import Tensor


def detectron2_segmentations(
    sem_segs: Sequence[Tensor],
    center_heatmaps: Sequence[Tensor],
    offsets: Sequence[Tensor],
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
) -> list[tuple[Tensor, Tensor]]:
    """As `get_panoptic_segmentations`, by Detectron2's function, image after image."""
    with warnings.catch_warnings():
        # It calls meshgrid the old way.
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        return [
            get_panoptic_segmentation(
                *(sem_seg, heatmap, offset, thing_ids, label_divisor, stuff_area),
                *(void_label, threshold, nms_kernel, top_k),
            )
            for sem_seg, heatmap, offset in zip(sem_segs, center_heatmaps, offsets, strict=True)
        ]
