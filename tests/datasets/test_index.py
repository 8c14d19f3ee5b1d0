"""Large datasets are read once a machine: records, warnings and errors are as without an index."""

import json
import logging
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.data.loader import TrainLoader
from panoptic_dl.datasets import categories, index, registry
from panoptic_dl.datasets.coco import coco_panoptic
from panoptic_dl.datasets.custom import custom_dataset
from panoptic_dl.datasets.index import Records
from tests.datasets.tiny_custom import classes_of, edit, register, write_own


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SMALLEST", 0)
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    return write_own(tmp_path / "data", train=3, val=2)


def forget():
    """As in a new process."""
    registry._registered.clear()
    categories._read.cache_clear()


@pytest.fixture
def reads(monkeypatch):
    """The JSON files that are read from now on."""
    found = []
    real = categories.read_json
    monkeypatch.setattr(categories, "read_json", lambda file: found.append(file.name) or real(file))
    return found


def fresh(root, **options):
    forget()
    name = register(root, **options)
    return DatasetCatalog.get(name), MetadataCatalog.get(name).as_dict()


def test_later_processes_read_no_json_and_find_the_same(root, reads, monkeypatch, caplog):
    edit(
        root, lambda c: c["images"].append({"id": 5, "file_name": "none.png"})
    )  # which is warned of
    monkeypatch.setattr(index, "SMALLEST", 1 << 40)
    plain, plain_metadata = fresh(root)
    assert type(plain) is list
    monkeypatch.setattr(index, "SMALLEST", 0)
    said = []
    for expected in (["panoptic_train.json"], []):
        caplog.clear()
        del reads[:]
        records, metadata = fresh(root)
        assert set(reads) == set(expected)
        assert isinstance(records, Records)
        assert list(records) == records[:] == plain
        assert records[-1] == plain[-1]
        assert records[1:] == plain[1:]
        assert (len(records), metadata) == (len(plain), plain_metadata)
        said.append([(r.name, r.getMessage()) for r in caplog.records if r.levelno > logging.INFO])
    assert said[0] == said[1]
    assert any("have no annotation and are left out" in text for _, text in said[0])
    with pytest.raises(IndexError):
        records[len(plain)]
    assert list(pickle.loads(pickle.dumps(records))) == plain  # for processes that are spawned


def test_coco_is_kept_as_well(coco, monkeypatch):
    found = []
    for smallest in (1 << 40, 0, 0):
        monkeypatch.setattr(index, "SMALLEST", smallest)
        forget()
        found.append(DatasetCatalog.get(coco_panoptic(root=str(coco), split="val")))
    assert list(found[0]) == list(found[1]) == list(found[2])
    assert isinstance(found[2], Records)


def test_a_loader_gives_the_same_batches(root, monkeypatch):
    batches = []
    for smallest in (1 << 40, 0, 0):
        monkeypatch.setattr(index, "SMALLEST", smallest)
        for workers in (0, 1):
            loader = TrainLoader(
                records=fresh(root)[0], mapper=dict, batch_size=2, num_workers=workers, seed=0
            )
            stream = iter(loader)
            batches.append(([next(stream) for _ in range(4)], loader.state_dict()))
    assert all(batch == batches[0] for batch in batches)


CHANGES = {
    "the JSON": lambda root: edit(root, lambda c: c["annotations"].pop()),
    "a time": lambda root: os.utime(root / "annotations/panoptic_train.json", ns=(5, 5)),
    "an image": lambda root: (root / "train/img 1.png").unlink(),
    "an image in a folder": lambda root: (root / "train/deep/img 0.png").unlink(),
    "a label": lambda root: (root / "panoptic_train/label-1.png").unlink(),
    "the index is torn": lambda root: [
        f.write_bytes(f.read_bytes()[:-9]) for f in index.cache_folder().glob("index/*.jsonl")
    ],
    "the index is empty": lambda root: [
        f.write_bytes(b"") for f in index.cache_folder().glob("index/*.jsonl")
    ],
    "the version": lambda root: setattr(index, "VERSION", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_read_again(root, reads, change, monkeypatch):
    monkeypatch.setattr(index, "VERSION", index.VERSION)
    (root / "train/deep").mkdir()
    (root / "train/img 0.png").rename(root / "train/deep/img 0.png")
    edit(root, lambda c: c["images"][0].update(file_name="deep/img 0.png"))
    before, _ = fresh(root)
    del reads[:]
    CHANGES[change](root)
    if change.startswith(("an image", "a label")):
        with pytest.raises(DatasetError, match=r"file missing: .*(img|label)"):
            fresh(root)
    else:
        after, _ = fresh(root)
        assert len(after) == len(before) - (change == "the JSON")
    assert "panoptic_train.json" in reads


def test_errors_are_not_kept(root):
    for _ in range(2):
        edit(root, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77))
        with pytest.raises(DatasetError, match="category_id 77"):
            fresh(root)


def test_other_classes_than_those_of_the_dataset_are_an_error_each_time(root):
    classes = classes_of(root)
    for split in ("train", "val"):
        edit(root, lambda c: c["categories"][0].update(name="new"), split=split)
    options = {"form": "coco_format", "task": "panoptic", "part": "train", "split": "train"}
    for _ in range(2):
        forget()
        with pytest.raises(DatasetError, match=r"other categories than dataset\.classes"):
            custom_dataset(classes=classes, root=str(root), **options)


@pytest.mark.parametrize("place", ["a file", "full", "odd values"])
def test_a_cache_that_takes_nothing_ends_no_run(root, cache, place, monkeypatch):
    if place == "a file":
        cache.write_text("no folder")
    elif place == "full":

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(index, "atomic_write", full)
    else:
        monkeypatch.setattr(index.json, "dumps", lambda *a, **k: json.JSONEncoder().encode({1j}))
    for _ in range(2):
        records, metadata = fresh(root)
        assert (type(records), len(records)) == (list, 3)
        assert metadata["num_images"] == 3


def read_in_process(root, log):
    index.SMALLEST = 0
    real = categories.read_json

    def noted(file):
        with Path(log).open("a") as lines:
            lines.write(f"{file.name}\n")
        return real(file)

    categories.read_json = noted
    return [record["image_id"] for record in fresh(root)[0]]


def test_processes_that_start_together_read_it_once(root, tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(4, context) as pool:
        found = list(pool.map(read_in_process, [root] * 4, [log] * 4))
    assert all(each == found[0] for each in found)
    # Once for the categories, once for the records.
    assert sorted(log.read_text().split()) == ["panoptic_train.json"] * 2
