"""A split of a dataset, as Detectron2's catalogs know it."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.data.errors import DatasetError

from .report import ImageReport


@dataclass
class Split:
    """Records and metadata of a dataset, by its name.

    Attributes:
        title: "train" or "val".
        name: in Detectron2's catalogs.
        reports: of the images that were opened.
    """

    title: str
    name: str
    reports: list[ImageReport] = field(default_factory=list)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Detectron2's records; categories of segments are contiguous ids."""
        records: list[dict[str, Any]] = DatasetCatalog.get(self.name)
        if not records:
            raise DatasetError(f"dataset {self.name} has no images")
        return records

    @cached_property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = MetadataCatalog.get(self.name).as_dict()
        return found

    @property
    def panoptic_json(self) -> str | None:
        """The file of all segments, if the dataset has one."""
        return self.metadata.get("panoptic_json")

    @cached_property
    def content(self) -> dict[str, Any]:
        """What is in `panoptic_json`; its categories are ids of the dataset."""
        content = json.loads(Path(str(self.panoptic_json)).read_bytes())
        kinds = ("images", "annotations", "categories")
        missing = [kind for kind in kinds if not isinstance(content.get(kind), list)]
        if missing:
            raise DatasetError(f"{self.panoptic_json} has no list of {', '.join(missing)}")
        found: dict[str, Any] = content
        return found

    @cached_property
    def listed_sizes(self) -> dict[Any, tuple[int, int]]:
        """(height, width) of images in `panoptic_json`, by id."""
        if self.panoptic_json is None:
            return {}
        return {
            image["id"]: (image["height"], image["width"])
            for image in self.content["images"]
            if {"id", "height", "width"} <= image.keys()
        }

    @property
    def class_names(self) -> list[str]:
        """By contiguous id."""
        return list(self.metadata.get("stuff_classes", ()))

    @property
    def ignore_label(self) -> int:
        return int(self.metadata.get("ignore_label", 255))

    @property
    def contiguous(self) -> dict[int, int]:
        """From the dataset's category ids to classes; {} where labels hold classes already."""
        stuff = self.metadata.get("stuff_dataset_id_to_contiguous_id") or {}
        return {**stuff, **(self.metadata.get("thing_dataset_id_to_contiguous_id") or {})}

    @property
    def is_cityscapes(self) -> bool:
        """Whether its labels are those of the official scripts, with the official ids."""
        kind = str(self.metadata.get("evaluator_type", ""))
        return kind.startswith("cityscapes") and len(self.class_names) == 19
