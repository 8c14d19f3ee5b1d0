"""Toy data is the same everywhere, is made once, and is whole or absent."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.storage import store_once
from panoptic_dl.datasets.toy import toy_cityscapes, toy_coco

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = {"num_train": 7, "num_val": 2, "seed": 4}


def contents(folder: str) -> dict[str, bytes]:
    base = Path(folder)
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("make", "size"), [(toy_cityscapes, (64, 128)), (toy_coco, (96, 128))], ids=["streets", "coco"]
)
def test_same_bytes_for_any_folder_and_number_of_workers(tmp_path: Path, make, size) -> None:
    first = make(root=str(tmp_path / "one"), size=size, num_workers=1, **SMALL)
    second = make(root=str(tmp_path / "two"), size=size, num_workers=2, **SMALL)
    assert Path(first).name == Path(second).name
    found = contents(first)
    assert len(found) > 9
    assert found == contents(second)


def test_sample_depends_on_seed_split_and_index_only(tmp_path: Path) -> None:
    def images(**change: int) -> dict[str, bytes]:
        parameters = {**SMALL, "size": (64, 128), "num_workers": 1, **change}
        found = contents(toy_cityscapes(root=str(tmp_path), **parameters))
        return {name: data for name, data in found.items() if "leftImg8bit" in name}

    many, few, other = images(), images(num_train=3), images(num_train=3, seed=5)
    assert len(many) == 9
    assert len(few) == 5
    assert all(many[name] == data for name, data in few.items())
    assert few.keys() == other.keys()
    assert all(other[name] != data for name, data in few.items())
    assert len(set(many.values())) == 9


@pytest.mark.skipif(cv2.__version__ != "4.11.0", reason="for the pinned version")
def test_same_pixels_on_every_machine(tmp_path: Path) -> None:
    """Fails when the drawings change: then count VERSION up and put the new digests here."""
    streets = toy_cityscapes(root=str(tmp_path), num_train=1, num_val=1, size=(128, 256), seed=11)
    scenes = toy_coco(root=str(tmp_path), num_train=1, num_val=1, size=(120, 160), seed=11)
    digest = hashlib.sha256()
    for folder in (streets, scenes):
        for path in sorted(Path(folder).rglob("*.png")):
            digest.update(np.asarray(Image.open(path)).tobytes())
    versions = [json.loads((Path(f) / "toy.json").read_text()) for f in (streets, scenes)]
    assert [v["parameters"]["version"] for v in versions] == [3, 3]
    assert digest.hexdigest()[:16] == "7a277cf8e30ae242"


def test_second_call_makes_nothing(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "data.txt").write_text("x")

    first = store_once(str(tmp_path), "kind", {"a": 1}, make)
    assert store_once(str(tmp_path), "kind", {"a": 1}, make) == first
    assert len(calls) == 1
    assert store_once(str(tmp_path), "kind", {"a": 2}, make) != first
    assert len(calls) == 2


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data.txt").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_once(str(tmp_path), "kind", {}, fail)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_missing_file_is_noticed(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        for name in "ab":
            (folder / name).write_text(name)

    folder = store_once(str(tmp_path), "kind", {}, make)
    (folder / "a").unlink()
    with pytest.raises(DatasetError, match=rf"{folder}.*delete"):
        store_once(str(tmp_path), "kind", {}, make)


def test_unwritable_root_names_the_folder_and_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DatasetError, match=rf"{blocked}.*PANOPTIC_DL_CACHE="):
        toy_cityscapes(root=str(blocked / "deeper"), num_train=1, num_val=1, size=(64, 128))
