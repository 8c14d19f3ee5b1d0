"""BDD100K: bitmasks are read as the official tools read them."""

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.bdd100k import read
from tests.datasets.official_folders import save, segments_of, write_bdd100k


@pytest.fixture
def root(tmp_path):
    return write_bdd100k(tmp_path, train=2, val=1)


def test_bitmasks_are_read_bit_by_bit(root):
    export = read(root)
    assert {split: len(samples) for split, samples in export.splits.items()} == {
        "train": 2,
        "val": 1,
    }
    sample = export.splits["train"][1]
    folder = root / "bdd100k" / "labels" / "pan_seg" / "bitmasks" / "train"
    mask = np.asarray(Image.open(folder / f"{sample.image.stem}.png")).astype(int)
    wanted = set()
    for number in {(int(b), int(a)) for b, a in mask[..., 2:].reshape(-1, 2)} - {(0, 0)}:
        where = (mask[..., 2:] == number).all(-1)
        (category,) = {int(value) for value in mask[where][:, 0]}
        crowds = {bool(value & 0b11) for value in mask[where][:, 1]}  # crowd << 1 | ignored
        wanted.add((category, int(crowds == {True}), where.tobytes()))
    assert segments_of(*sample.label()) == wanted
    kinds = sample.label()[1]
    assert kinds == {7: (7, 0), 30: (30, 0), 31: (35, 0), 258: (35, 0), 33: (31, 1), 34: (35, 1)}


def test_the_table_is_the_official_one(root):
    table = read(root / "bdd100k").categories
    assert [category["id"] for category in table] == list(range(1, 41))
    assert ", ".join(c["name"] for c in table if c["isthing"]) == (
        "person, rider, bicycle, bus, car, caravan, motorcycle, trailer, train, truck"
    )
    assert table[6] == {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]}


def test_what_is_no_bitmask_is_named(root, tmp_path):
    sample = read(root).splits["val"][0]
    file = root / "bdd100k" / "labels" / "pan_seg" / "bitmasks" / "val" / f"{sample.image.stem}.png"
    save(file, np.zeros((24, 32, 3)))
    with pytest.raises(DatasetError, match="no bitmask of BDD100K: its mode is RGB, not RGBA"):
        sample.label()
    mask = np.zeros((24, 32, 4))
    mask[0, :2] = (31, 0, 0, 1), (35, 0, 0, 1)
    save(file, mask)
    with pytest.raises(DatasetError, match=r"segment 1 has class 35, or two classes"):
        sample.label()
    file.unlink()
    with pytest.raises(DatasetError, match=r"file missing: .*val"):
        read(root)
    sample.image.unlink()
    with pytest.raises(DatasetError, match=r"prepare_dataset\.py bdd100k"):
        read(tmp_path / "bdd100k" / "images")
