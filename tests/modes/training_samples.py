"""A small training sample, and its panels by their headings."""

import torch

from panoptic_dl.modes.browse import _panels


def by_start(sample, classes, ignore_label=255, image_format="RGB"):
    """The panels by the first words of their headings."""
    found = _panels(sample, classes, ignore_label=ignore_label, image_format=image_format)
    return {heading.split(" (")[0].split(",")[0]: picture for heading, picture in found.items()}


def sample_of(size=(8, 10)):
    """A thing in the upper left corner, an ignored row, stuff elsewhere."""
    labels = torch.zeros(size, dtype=torch.int64)
    labels[:4, :5] = 1
    labels[-1] = 255
    weights = 1 + 2.0 * (labels == 1)
    center = torch.zeros(size)
    center[2, 2] = 1
    ys, xs = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    return {
        "file_name": "folder/picture.png",
        "height": 20,
        "width": 30,
        "image": torch.arange(3 * size[0] * size[1]).reshape(3, *size).to(torch.uint8),
        "sem_seg": labels,
        "sem_seg_weights": weights,
        "center": center,
        "center_points": [[2.0, 2.0]],
        "center_weights": (labels != 255)[None].float(),
        "offset": torch.stack([2 - ys, 2 - xs]) * (labels == 1).float(),
        "offset_weights": (labels == 1)[None].float(),
    }
