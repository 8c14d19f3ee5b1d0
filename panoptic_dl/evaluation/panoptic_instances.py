"""The things of panoptic labels as the truth of box and mask AP, where there is no instances file.

Masks are the visible pixels, for panoptic segments do not overlap, and boxes are around them. The
instances files of COCO have polygons of annotators instead: figures of the two do not compare.

Shapes: H W pixels.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.evaluation.coco import COCOInstanceEvaluator
from panoptic_dl.evaluation.coco_matching import KINDS, NAMES
from panoptic_dl.evaluation.coco_truth import ImageTruth, TrueInstance
from panoptic_dl.evaluation.damage import unreadable
from panoptic_dl.evaluation.label_files import read_panoptic_ids
from panoptic_dl.evaluation.streaming_coco import StreamingCOCOInstanceEvaluator


class PanopticTruth(Mapping[Any, ImageTruth]):
    """Instances by the id of the image, made from its PNG when they are asked for."""

    def __init__(self, dataset: str) -> None:
        """
        Args:
            dataset: a panoptic dataset of Detectron2's catalogs; its things are 0..K-1.
        """
        self._things = set(MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id.values())
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._records)

    def size(self, image: Any) -> tuple[int, int]:
        """(H, W) of a label, without decoding it.

        Raises:
            EvaluationError: it cannot be read.
        """
        file = self._records[image]["pan_seg_file_name"]
        try:
            with Image.open(file) as label:
                return label.height, label.width
        except (OSError, SyntaxError) as error:
            raise unreadable([Path(file)], error) from error

    def __getitem__(self, image: Any) -> ImageTruth:
        record = self._records[image]
        ids = read_panoptic_ids(record["pan_seg_file_name"])
        instances = []
        for segment in record["segments_info"]:
            if segment["category_id"] not in self._things:
                continue
            mask = np.asfortranarray(ids == segment["id"], dtype=np.uint8)
            encoded = mask_util.encode(mask)
            area = int(mask_util.area(encoded))
            if not area:  # listed without pixels: nothing that could be found
                continue
            instances.append(
                TrueInstance(
                    segment["id"],
                    segment["category_id"],
                    bool(segment["iscrowd"]),
                    area,
                    mask_util.toBbox(encoded).tolist(),
                    {"size": list(ids.shape), "counts": encoded["counts"].decode()},
                )
            )
        return ImageTruth((ids.shape[0], ids.shape[1]), instances)


class StreamingPanopticInstanceEvaluator(StreamingCOCOInstanceEvaluator):
    """COCO's box and mask AP against the things of panoptic labels, as a stream."""

    _truth: PanopticTruth

    def _read_truth(self, dataset: str, metadata: Metadata) -> PanopticTruth:
        self._source = dataset
        return PanopticTruth(dataset)

    def _size(self, image: Any) -> tuple[int, int]:
        return self._truth.size(image)


class PanopticInstanceEvaluator(COCOInstanceEvaluator):
    """The same by pycocotools, which is given an instances file made for it."""

    def __init__(self, dataset: str) -> None:
        """Make the truth: every label of the dataset is read."""
        metadata = MetadataCatalog.get(dataset)
        name = f"{dataset} with the instances of its panoptic labels"
        with tempfile.TemporaryDirectory(prefix="panoptic_instances_") as folder:
            file = Path(folder, "instances.json")
            file.write_text(json.dumps(_as_coco(PanopticTruth(dataset), metadata)))
            MetadataCatalog.get(name).set(
                json_file=str(file),
                thing_classes=metadata.thing_classes,
                thing_dataset_id_to_contiguous_id=metadata.thing_dataset_id_to_contiguous_id,
            )
            try:
                super().__init__(name)
            finally:
                MetadataCatalog.remove(name)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Compute the figures; NaN where the dataset has no things, which Detectron2 cannot say."""
        if not self._metadata.thing_dataset_id_to_contiguous_id:
            return {kind: dict.fromkeys(NAMES, float("nan")) for kind in KINDS}
        return super().evaluate(img_ids)


def _as_coco(truth: PanopticTruth, metadata: Metadata) -> dict[str, Any]:
    """An instances file in COCO's format, categories with the ids of the dataset."""
    things = metadata.thing_dataset_id_to_contiguous_id
    dataset_ids = {index: category for category, index in things.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, of_image in truth.items():
        images.append({"id": image, "height": of_image.size[0], "width": of_image.size[1]})
        annotations += [
            {
                "id": len(annotations) + number,  # from 1: a match with 0 counts as none
                "image_id": image,
                "category_id": dataset_ids[instance.category],
                "iscrowd": int(instance.crowd),
                "area": instance.area,
                "bbox": instance.box,
                "segmentation": instance.segmentation,
            }
            for number, instance in enumerate(of_image.instances, start=1)
        ]
    names = metadata.thing_classes
    categories = [{"id": category, "name": names[index]} for category, index in things.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
