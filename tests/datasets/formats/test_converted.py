"""ADE20K, BDD100K and VOC through the converter: what lies in the cache is what readers give."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.datasets.formats import ade20k, bdd100k, voc
from panoptic_dl.datasets.importing import import_dataset, recognize
from tests.datasets.official_folders import (
    segments_of,
    write_ade20k,
    write_bdd100k,
    write_voc,
)

READERS = {"ade20k": ade20k.read, "bdd100k": bdd100k.read, "voc": voc.read}
WRITERS = {
    "ade20k": (lambda root: write_ade20k(root, training=2, validation=1), "ADEChallengeData2016"),
    "bdd100k": (lambda root: write_bdd100k(root, train=2, val=1), "bdd100k"),
    "voc": (lambda root: write_voc(root, train=2, val=1), "VOCdevkit/VOC2012"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_the_cache_holds_what_the_reader_gives(tmp_path, name, task):
    write, inside = WRITERS[name]
    root = write(tmp_path / "data") / inside
    found = recognize(root)
    assert found is not None
    assert found[0] == name
    reader = {"task": task} if name == "ade20k" else {}
    cache = str(tmp_path / "cache")
    folder = import_dataset(form=name, root=str(root), cache=cache, reader=reader)
    export = READERS[name](root, **reader)
    splits = {"train_split": "train", "test_split": "val"}
    classes = custom_classes(form=name, root=folder, **splits)
    assert len(classes) == len(export.categories)
    for part, split in (("train", "train"), ("test", "val")):
        content = json.loads(Path(folder, "annotations", f"panoptic_{split}.json").read_text())
        labels = Path(folder, f"panoptic_{split}")
        for sample, annotation in zip(export.splits[split], content["annotations"], strict=True):
            ids = rgb2id(np.asarray(Image.open(labels / annotation["file_name"])))
            kinds = {s["id"]: (s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]}
            assert segments_of(ids, kinds) == segments_of(*sample.label())
        registered = custom_dataset(
            form=name,
            task=task,
            part=part,
            classes=classes,
            root=folder,
            split=split,
            images=str(root),
        )
        files = [record["file_name"] for record in DatasetCatalog.get(registered)]
        assert [Path(file).resolve() for file in files] == [
            sample.image.resolve() for sample in export.splits[split]
        ]
