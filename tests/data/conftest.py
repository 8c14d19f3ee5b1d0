"""Small datasets in the official layouts, for the tests of this folder."""

import pytest
from detectron2.data import DatasetCatalog

from panoptic_dl.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from tests.datasets.tiny_datasets import write_cityscapes, write_coco


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_cityscapes(root, train=2)
    write_coco(root, train=3, val=1)
    return root


@pytest.fixture(scope="module")
def records(root):
    names = {
        "cityscapes": cityscapes_panoptic(root=str(root), split="train", prefix="mapper_"),
        "cityscapes_semantic": cityscapes_semantic(root=str(root), split="train", prefix="mapper_"),
        "coco": coco_panoptic(root=str(root), split="train", prefix="mapper_"),
        "coco_semantic": coco_semantic(root=str(root), split="train", prefix="mapper_"),
    }
    return {key: DatasetCatalog.get(name) for key, name in names.items()}
