"""What prediction files have to know of a dataset: its images, and the dataset's own category ids.

Contiguous categories, 0..K-1, are those of models; dataset ids are those of files.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cityscapesscripts.helpers.labels import name2label
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.evaluation.cityscapes_labels import EVALUATED, image_id
from panoptic_dl.evaluation.figures import EvaluationError


@dataclass(frozen=True)
class PredictedDataset:
    """A dataset as prediction files see it.

    Attributes:
        name: in Detectron2's catalogs.
        cityscapes: whether files are those of Cityscapes' scripts; else those of COCO.
        split: "val2017", "val", for names of files.
        images: what names an image (`image`), and the stem of the names of its files.
        dataset_ids: dataset id of each contiguous category.
        things: contiguous categories with instances; None for a dataset of the semantic task.
        instance_ids: dataset id of each class of "instances".
        label_divisor: of panoptic maps.
    """

    name: str
    cityscapes: bool
    split: str
    images: Mapping[Hashable, str]
    dataset_ids: Mapping[int, int]
    things: frozenset[int] | None
    instance_ids: Mapping[int, int]
    label_divisor: int

    @property
    def contiguous(self) -> dict[int, int]:
        """Contiguous category of each dataset id."""
        return {dataset_id: category for category, dataset_id in self.dataset_ids.items()}

    def image(self, item: Mapping[str, Any]) -> Hashable:
        """What names the image of a model's input: Cityscapes' id, or COCO's number."""
        if self.cityscapes:
            return image_id(item["file_name"])
        image: Hashable = item["image_id"]
        return image

    def advice(self) -> str:
        """What to check when a category is unknown."""
        if self.cityscapes:
            return (
                "files hold Cityscapes' label ids (7 road, 26 car), not train ids (0 road, 13 car)"
            )
        return "files hold the dataset's own ids, with their gaps, not classes counted from 0"


def look_up(dataset: str, records: Sequence[Mapping[str, Any]] | None = None) -> PredictedDataset:
    """Look up a dataset of Detectron2's catalogs.

    Args:
        dataset: one whose metadata has `gt_dir` (Cityscapes), `panoptic_json` or `json_file` (COCO,
            and whatever lies on disk as it does).
        records: those of its images that are predicted; None: all.

    Raises:
        EvaluationError: its metadata has none of them, or two of its images share a name.
    """
    metadata = MetadataCatalog.get(dataset)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    cityscapes = metadata.get("gt_dir") is not None
    listed = metadata.get("panoptic_json") or metadata.get("json_file")
    if cityscapes:
        split = Path(metadata.gt_dir).name
        dataset_ids = {label.trainId: label.id for label in EVALUATED}
        instance_ids = {
            index: name2label[name].id for index, name in enumerate(metadata.thing_classes)
        }
    elif listed:
        split = Path(listed).stem.removeprefix("panoptic_").removeprefix("instances_")
        categories = {**metadata.get("stuff_dataset_id_to_contiguous_id", {}), **(things or {})}
        dataset_ids = {category: dataset_id for dataset_id, category in categories.items()}
        instance_ids = {category: dataset_id for dataset_id, category in (things or {}).items()}
    else:
        raise EvaluationError(
            f"no format of prediction files is known for {dataset}: its metadata must have gt_dir "
            "(Cityscapes), panoptic_json or json_file (COCO)"
        )
    images: dict[Hashable, str] = {}
    for record in DatasetCatalog.get(dataset) if records is None else records:
        if cityscapes:
            image = image_id(record["file_name"])
            images[image] = image
        else:
            images[record["image_id"]] = Path(record["file_name"]).stem
    owners: dict[str, Hashable] = {}
    for image_, stem in images.items():
        if stem in owners:
            raise EvaluationError(
                f"images {owners[stem]} and {image_} of {dataset} are both called {stem}: their "
                "predictions would have one file; rename one of them"
            )
        owners[stem] = image_
    return PredictedDataset(
        name=dataset,
        cityscapes=cityscapes,
        split=split,
        images=images,
        dataset_ids=dataset_ids,
        things=None if things is None else frozenset(things.values()),
        instance_ids=instance_ids,
        label_divisor=int(metadata.get("label_divisor", 1000)),
    )
