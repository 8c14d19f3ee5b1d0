"""COCO panoptic (Kirillov et al., CVPR 2019) and whatever lies on disk as it does.

    <root>/coco/
      <split>2017/<id>.jpg
      panoptic_<split>2017/<id>.png           a segment's id = R + 256 G + 256^2 B
      annotations/panoptic_<split>2017.json   a segment's category; lists the images
      annotations/instances_val2017.json      for box and mask AP only

Part of the images with an annotation file of its own is a valid dataset. `panoptic_stuff_*` folders
are not needed: semantic labels (133 classes) are read from the panoptic PNGs.
"""

import os
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

from panoptic_dl.core.classes import Classes
from panoptic_dl.datasets.categories import Categories
from panoptic_dl.datasets.registry import Layout, Record, list_files, register_once

SPLITS = ("train", "val")


def coco_classes() -> Classes:
    """The 80 things, then the 53 stuff classes."""
    return Classes.of_categories(COCO_CATEGORIES)


def coco_panoptic(*, root: str, split: str, prefix: str = "") -> str:
    """Register a panoptic split of COCO 2017 after checking that it is complete.

    Args:
        root: folder that holds `coco/`.
        split: "train" or "val".
        prefix: put before the official name: "toy_" for the generated look-alike.

    Returns:
        The name in Detectron2's catalogs, `coco_2017_<split>_panoptic`. Its records and metadata
        are those of Detectron2's own entry, and the sizes of images; categories of segments count
        from 0, things first.

    Raises:
        DatasetError: something is missing or does not fit together; names the file and the remedy.
    """
    files = _Split(root, split)
    return register_once(
        f"{prefix}coco_2017_{split}_panoptic",
        sources=files.sources(),
        load=files.records,
        metadata=files.panoptic_metadata,
    )


def coco_semantic(*, root: str, split: str, prefix: str = "") -> str:
    """Register a semantic split of COCO 2017: the 133 panoptic classes, things and stuff alike.

    Arguments and errors are those of `coco_panoptic`; the name is
    `coco_2017_<split>_panoptic_semantic`. The records are the panoptic ones.
    """
    files = _Split(root, split)
    return register_once(
        f"{prefix}coco_2017_{split}_panoptic_semantic",
        sources=files.sources(),
        load=files.records,
        metadata=files.semantic_metadata,
    )


class _Split:
    """Files and folders of one split."""

    def __init__(self, root: str, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(
                f"COCO has no split {split!r} with public labels: choose from {SPLITS}"
            )
        self.layout = Layout("COCO 2017", str(root), "coco")
        self.split = split
        self.images = self.layout.base / f"{split}2017"
        self.panoptic = self.layout.base / f"panoptic_{split}2017"
        self.panoptic_json = self.layout.base / "annotations" / f"panoptic_{split}2017.json"
        self.instances_json = self.layout.base / "annotations" / f"instances_{split}2017.json"
        self.remedy = (
            f"`python scripts/prepare_coco.py {root}` says what to download and where to put it"
        )

    def sources(self) -> list[Path]:
        return [self.images, self.panoptic, self.panoptic_json, self.instances_json]

    def records(self) -> list[Record]:
        """Check the layout and return Detectron2's records."""
        layout = self.layout
        layout.require_folder(self.images, self.remedy)
        layout.require_folder(self.panoptic, self.remedy)
        if self.split == "val":
            layout.require_file(self.instances_json, self.remedy)
        images, labels = list_files(self.images, ".jpg"), list_files(self.panoptic, ".png")
        if not images or not labels:
            empty = self.panoptic if images else self.images
            raise layout.error(f"folder empty: {empty}", self.remedy)
        content = layout.read_json(self.panoptic_json, self.remedy)
        if not content.get("annotations"):
            raise layout.error(f"{self.panoptic_json} lists no image", self.remedy)
        try:
            names = {annotation["file_name"] for annotation in content["annotations"]}
            layout.require_files(names, labels, self.panoptic, self.remedy)
            jpegs = {os.path.splitext(name)[0] + ".jpg" for name in names}
            layout.require_files(jpegs, images, self.images, self.remedy)
            records: list[Record] = load_coco_panoptic_json(
                str(self.panoptic_json),
                str(self.images),
                str(self.panoptic),
                _get_builtin_metadata("coco_panoptic_standard"),
            )
        except KeyError as error:
            problem = f"unknown category or missing key {error} in {self.panoptic_json}"
            raise layout.error(problem, self.remedy) from error
        # Portrait and landscape images are told apart before they are read.
        sizes = {image["id"]: image for image in content.get("images", [])}
        for record in records:
            image = sizes.get(record["image_id"], {})
            if not {"height", "width"} <= image.keys():
                raise layout.error(
                    f"{self.panoptic_json} has no size of image {record['image_id']}", self.remedy
                )
            record |= {"height": image["height"], "width": image["width"]}
        return records

    def panoptic_metadata(self) -> dict[str, Any]:
        return dict(
            panoptic_root=str(self.panoptic),
            image_root=str(self.images),
            panoptic_json=str(self.panoptic_json),
            json_file=str(self.instances_json),
            evaluator_type="coco_panoptic_seg",
            ignore_label=255,
            label_divisor=1000,
            **_get_builtin_metadata("coco_panoptic_standard"),
        )

    def semantic_metadata(self) -> dict[str, Any]:
        ids = tuple(category["id"] for category in COCO_CATEGORIES)
        return Categories(ids, coco_classes()).metadata(semantic=True) | {
            "panoptic_root": str(self.panoptic),
            "image_root": str(self.images),
            "panoptic_json": str(self.panoptic_json),
            "evaluator_type": "sem_seg",
        }
