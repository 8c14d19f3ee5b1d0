"""Datasets of drawn scenes and of the toys, with outputs of models that err.

Shapes: H W pixels, N instances.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from pycocotools import mask as coco_mask

from panoptic_dl.config import build, compose
from panoptic_dl.core.masks import encode_mask
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED
from panoptic_dl.predictions.folder import prediction_writers
from tests.evaluation.model_outputs import err, make_instances
from tests.evaluation.scenes import (
    DIVISOR,
    HEIGHT,
    STREET_HEIGHT,
    STREET_WIDTH,
    WIDTH,
    instance_predictions,
    paint,
    panoptic_scene,
    semantic_scores,
    write_panoptic,
    write_street_labels,
)

DATASET_IDS = {0: 1, 1: 44, 2: 90, 3: 107, 4: 92, 5: 200}
NUM_THINGS = 3  # the first, as Detectron2 wants them
SMALL = ["dataset.root.num_train=1", "dataset.root.num_val=3"]
numbers = itertools.count()


@dataclass
class Predicted:
    """A dataset, its images as models get them, and what a model said."""

    name: str
    items: list[dict]
    outputs: list[dict]


def coco_scenes(folder: Path, seeds) -> Predicted:
    """A COCO-like dataset of drawn scenes with panoptic, instance and semantic outputs."""
    name = f"predicted_{next(numbers)}"
    items, outputs, images, annotations, boxes = [], [], [], [], []
    for index, seed in enumerate(seeds):
        scene, draw = panoptic_scene(seed, len(DATASET_IDS)), np.random.default_rng(seed)
        image = 5 + 3 * index
        write_panoptic(scene, folder, f"{image:012d}")
        size = {"height": HEIGHT, "width": WIDTH}
        items.append(
            {
                "image_id": image,
                "file_name": f"anywhere/{image:012d}.jpg",
                "pan_seg_file_name": str(folder / "truth" / f"{image:012d}.png"),
                "segments_info": scene.segments,
                **size,
            }
        )
        images.append({"id": image, "file_name": f"{image:012d}.jpg", **size})
        segments = [s | {"category_id": DATASET_IDS[s["category_id"]]} for s in scene.segments]
        annotations.append(
            {"image_id": image, "file_name": f"{image:012d}.png", "segments_info": segments}
        )
        for truth in scene.segments:
            mask = scene.truth == truth["id"]
            if truth["category_id"] < NUM_THINGS and mask.any():
                code = encode_mask(mask)
                boxes.append(
                    {
                        "id": len(boxes) + 1,
                        "image_id": image,
                        "category_id": DATASET_IDS[truth["category_id"]],
                        "iscrowd": truth["iscrowd"],
                        "area": int(mask.sum()),
                        "bbox": coco_mask.toBbox(code).tolist(),
                        "segmentation": code,
                    }
                )
        outputs.append(scene_output(scene.panoptic, draw))
    categories = [
        {"id": DATASET_IDS[index], "name": f"class{index}", "isthing": int(index < NUM_THINGS)}
        for index in range(len(DATASET_IDS))
    ]
    things = [category for category in categories if category["isthing"]]
    files = {"panoptic_small7": (annotations, categories), "instances_small7": (boxes, things)}
    for file, (entries, kinds) in files.items():
        content = {"images": images, "annotations": entries, "categories": kinds, "info": {}}
        (folder / f"{file}.json").write_text(json.dumps(content))
    DatasetCatalog.register(name, lambda: items)
    of_kind = {
        kind: {dataset_id: i for i, dataset_id in DATASET_IDS.items() if (i < NUM_THINGS) == kind}
        for kind in (False, True)
    }
    MetadataCatalog.get(name).set(
        stuff_classes=[category["name"] for category in categories],
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=of_kind[True],
        stuff_dataset_id_to_contiguous_id=of_kind[False],
        label_divisor=DIVISOR,
        ignore_label=255,
        panoptic_json=str(folder / "panoptic_small7.json"),
        panoptic_root=str(folder / "truth"),
        json_file=str(folder / "instances_small7.json"),
    )
    return Predicted(name, items, outputs)


def scene_output(panoptic: np.ndarray, draw: np.random.Generator) -> dict:
    """Instances are the things of the map and some over them; classes have holes."""
    labels = [label for label in np.unique(panoptic) if 0 <= label < NUM_THINGS * DIVISOR]
    masks = [panoptic == label for label in labels[:20]]
    classes = [int(label) // DIVISOR for label in labels[:20]]
    for _ in range(draw.integers(0, 3)):
        mask = np.zeros(panoptic.shape, dtype=np.int64)
        paint(mask, 1, draw)
        masks.append(mask > 0)
        classes.append(int(draw.integers(0, NUM_THINGS)))
    output = {
        "panoptic_seg": (torch.from_numpy(panoptic), None),
        "sem_seg": torch.from_numpy(np.where(panoptic < 0, -1, panoptic // DIVISOR)),
    }
    if masks:
        scores = draw.choice([draw.random(), draw.random(), 0.5], len(masks)).astype(np.float32)
        output["instances"] = make_instances(np.stack(masks), classes, scores.tolist())
    return output


def streets(folder: Path, seeds) -> Predicted:
    """Labels of Cityscapes' kind with instances and class maps, of which some have no class."""
    name = f"predicted_{next(numbers)}"
    items, outputs = [], []
    for seed in seeds:
        image = write_street_labels(folder / "gtFine" / "val", seed)
        size = {"height": STREET_HEIGHT, "width": STREET_WIDTH}
        items.append({"file_name": f"anywhere/{image}_leftImg8bit.png", "image_id": image, **size})
        classes = semantic_scores(folder / "gtFine" / "val", image, seed).argmax(dim=0)
        classes[seed % 7 : seed % 7 + 5] = -1
        outputs.append(
            {
                "instances": instance_predictions(folder / "gtFine" / "val", image, seed),
                "sem_seg": classes,
            }
        )
    DatasetCatalog.register(name, lambda: items)
    names = [label.name for label in EVALUATED]
    of_kind = {
        kind: {label.id: label.trainId for label in EVALUATED if label.hasInstances == kind}
        for kind in (False, True)
    }
    MetadataCatalog.get(name).set(
        gt_dir=str(folder / "gtFine" / "val"),
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id=of_kind[True],
        stuff_dataset_id_to_contiguous_id=of_kind[False],
        label_divisor=DIVISOR,
        ignore_label=255,
    )
    return Predicted(name, items, outputs)


def toy(dataset: str, task: str = "panoptic") -> Predicted:
    """The validation split of a toy, and the truth with errors."""
    cfg = compose([f"dataset={dataset}", f"task={task}", *SMALL])
    panoptic, name = build(cfg.dataset.test.panoptic), build(cfg.dataset.test[task])
    records = sorted(DatasetCatalog.get(panoptic), key=lambda record: record["file_name"])
    things, draw = set(cfg.dataset.thing_ids), np.random.default_rng(0)
    outputs = [err(record, cfg.dataset.num_classes, things, draw) for record in records]
    items = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    return Predicted(name, items, outputs)


def save(predicted: Predicted, kinds, folder: Path) -> None:
    """Write the predictions as an evaluation does."""
    evaluators = DatasetEvaluators(prediction_writers(predicted.name, kinds, folder))
    evaluators.reset()
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        evaluators.process([item], [output])
    assert evaluators.evaluate() == {}


def files_below(folder: Path) -> set[str]:
    """Names of all files, relative to the folder."""
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
