"""Datasets of drawn panoptic scenes in Detectron2's catalogs, for the streaming tests."""

import itertools

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.evaluation.scenes import DIVISOR, PanopticScene, write_panoptic

NUM_CLASSES = 6
CATEGORIES = {index: {"id": index, "isthing": int(index % 2)} for index in range(NUM_CLASSES)}
numbers = itertools.count()


def register(scenes: list[PanopticScene], folder) -> str:
    """A dataset with the truth of the scenes; odd categories are things."""
    name = f"streaming_{next(numbers)}"
    records = []
    for index, scene in enumerate(scenes):
        write_panoptic(scene, folder, str(index))
        records.append(
            {
                "image_id": index,
                "file_name": f"{index}.jpg",
                "pan_seg_file_name": str(folder / "truth" / f"{index}.png"),
                "segments_info": scene.segments,
            }
        )
    DatasetCatalog.register(name, lambda: records)
    kinds = {kind: {i: i for i in CATEGORIES if i % 2 == kind} for kind in (0, 1)}
    MetadataCatalog.get(name).set(
        stuff_classes=[f"class{index}" for index in range(NUM_CLASSES)],
        thing_dataset_id_to_contiguous_id=kinds[1],
        stuff_dataset_id_to_contiguous_id=kinds[0],
        label_divisor=DIVISOR,
    )
    return name


def outputs_of(scenes):
    return [{"panoptic_seg": (torch.from_numpy(scene.panoptic), None)} for scene in scenes]
