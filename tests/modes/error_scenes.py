"""A dataset of drawn scenes, with predictions of known quality, and what is drawn of them."""

import math
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.modes.pictures import EvaluationPictures
from tests.evaluation.scenes import DIVISOR, panoptic_scene, write_panoptic

NUM_IMAGES = 9


QUALITIES = [0.5, 0.1, 0.5, 1.0, math.nan, 0.1, 0.9, 0.0, 1.0]


SHARDS = {  # images of each of two processes
    "uneven": [[8, 1], [7, 6, 5, 4, 3, 2, 0]],
    "all in the second": [[], range(9)],
}


EXPECTED = ["best.png", "worst.png"]


def make_dataset(folder: Path, number: int = NUM_IMAGES) -> str:
    """Drawn scenes, one of them with a name that no file can have everywhere."""
    records = []
    for index in range(number):
        scene = panoptic_scene(index)
        name = f"{index} \u00e4:b" if index == 7 else str(index)
        image = folder / f"{name}.png"
        if not image.exists():
            write_panoptic(scene, folder, str(index))
            height, width = scene.truth.shape
            Image.new("RGB", (width, height), (90, 120, 40)).save(image)
        records.append(
            {
                "file_name": str(image),
                "image_id": index,
                "pan_seg_file_name": str(folder / "truth" / f"{index}.png"),
                "segments_info": scene.segments,
            }
        )
    dataset = f"error_pictures_{folder.name}"
    if dataset in DatasetCatalog:
        DatasetCatalog.remove(dataset)
        MetadataCatalog.remove(dataset)
    DatasetCatalog.register(dataset, lambda: records[::-1])
    MetadataCatalog.get(dataset).set(
        stuff_classes=list("abcdef"),
        stuff_colors=[(40 * index, 90, 200) for index in range(6)],
        thing_dataset_id_to_contiguous_id={1: 1, 3: 3, 5: 5},
        ignore_label=255,
    )
    return dataset


def panoptic_output(index: int) -> dict:
    labels = torch.from_numpy(panoptic_scene(index).panoptic)
    return {"panoptic_seg": (labels, None), "label_divisor": DIVISOR}


def best_and_worst(dataset: str, count: int, folder: Path) -> EvaluationPictures:
    """Of an evaluation that draws nothing else."""
    settings = EvaluationSettings(picture_count=0, best_and_worst=count, charts=False)
    return EvaluationPictures(dataset, folder, settings)


def offer_all(pictures: EvaluationPictures, images, output=panoptic_output) -> None:
    items = {record["image_id"]: record for record in DatasetCatalog.get(pictures.dataset)}
    for index in images:
        pictures.on_image({"file_name": items[index]["file_name"]}, output(index), QUALITIES[index])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())
