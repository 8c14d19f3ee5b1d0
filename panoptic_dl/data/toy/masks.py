"""Masks in the forms of COCO's annotation files: boxes, polygons, run lengths."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def box_of(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of a bool (H, W) mask, in pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def describe_instance(mask: np.ndarray, is_crowd: bool) -> dict[str, Any]:
    """The fields of an instances JSON that a mask gives: run lengths for a crowd, else polygons."""
    from pycocotools import mask as coco_mask

    height, width = mask.shape
    if is_crowd:
        runs = {"counts": count_runs(mask), "size": [height, width]}
        box = [float(value) for value in box_of(mask)]
        return {"segmentation": runs, "area": int(mask.sum()), "bbox": box, "iscrowd": 1}
    polygons = trace_polygons(mask)
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {
        "segmentation": polygons,
        "area": float(coco_mask.area(encoded)),
        "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
        "iscrowd": 0,
    }


def trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outer polygons [x, y, x, y, ...] of a bool (H, W) mask; the first pixel spans [0, 1)."""
    # At twice the size the contour, which runs through pixel centres, keeps within a quarter of a
    # pixel of the mask's edge.
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    polygons: list[list[float]] = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        vertices = cv2.approxPolyDP(contour, 0.5, True).reshape(-1, 2)
        # A speck beside the thing's main part is no polygon, but a lone small part is.
        if len(vertices) >= 3 and (cv2.contourArea(contour) >= 16 or not polygons):
            polygons.append([round((float(value) + 0.5) / 2, 2) for value in vertices.ravel()])
    return polygons


def count_runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns (COCO's uncompressed RLE)."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    ends = np.concatenate([[0], edges, [mask.size]])
    runs = np.diff(ends)
    # A mask that touches the end has its last edge there: no run of zeros follows.
    return [int(run) for run in (runs[:-1] if runs[-1] == 0 else runs)]
