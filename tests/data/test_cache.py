"""Cached pixels are those of the file as it is now; the cache keeps its limit, whatever happens."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.data import cache as module
from panoptic_dl.data.cache import DecodedCache, decoded_cache
from panoptic_dl.data.sources import IDS, open_source


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.png", seed=0)


def write(file, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return str(file)


@pytest.fixture
def cache(tmp_path):
    return DecodedCache(str(tmp_path / "cache"), 1)


def never():
    raise AssertionError("it was decoded again")


def files(cache):
    return sorted(cache.folder.glob("*/*"))


def used(cache):
    return int((cache.folder / "bytes_used").read_text())


def test_a_file_is_decoded_once(cache, image):
    first = cache.get(image, "RGB", lambda: np.arange(12).reshape(3, 4))
    again = cache.get(image, "RGB", never)
    assert np.array_equal(first, again)
    assert not again.flags.writeable
    assert len(files(cache)) == 1
    assert used(cache) == files(cache)[0].stat().st_size


@pytest.mark.parametrize("kind", ["RGB", "BGR", IDS])
def test_sources_are_the_same_with_and_without(cache, image, kind):
    expected = open_source(image, kind)
    for _ in range(2):
        source = open_source(image, kind, cache)
        assert source.shape == expected.shape
        assert np.array_equal(source.rows(0, 20), expected.rows(0, 20))


def test_kinds_of_a_file_are_kept_apart(cache, image):
    for kind in ("RGB", "BGR", IDS):
        open_source(image, kind, cache)
    assert len(files(cache)) == 3
    assert used(cache) == sum(file.stat().st_size for file in files(cache))


def test_a_changed_file_is_decoded_anew_and_the_old_one_goes(cache, image):
    before = open_source(image, "RGB", cache).rows(0, 20).copy()
    os.utime(image, ns=(1, 1))  # as large as before, at another time
    assert np.array_equal(open_source(image, "RGB", cache).rows(0, 20), before)
    assert len(files(cache)) == 1
    write(image, seed=1)
    after = open_source(image, "RGB", cache).rows(0, 20)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, open_source(image, "RGB").rows(0, 20))
    assert len(files(cache)) == 1
    assert used(cache) == files(cache)[0].stat().st_size


def test_a_file_of_another_size_is_decoded_anew_whatever_its_time(cache, image):
    os.utime(image, ns=(1, 1))
    before = open_source(image, "RGB", cache).rows(0, 20).copy()
    with open(image, "ab") as file:  # readers of PNG mind no bytes behind its end
        file.write(b"more")
    os.utime(image, ns=(1, 1))
    decoded = np.zeros_like(before)
    assert np.array_equal(cache.get(image, "RGB", lambda: decoded), decoded)
    assert len(files(cache)) == 1


def test_the_limit_is_kept_and_said_once(tmp_path, caplog):
    cache = DecodedCache(str(tmp_path / "cache"), 5000 / 1e9)  # two of 1928 bytes
    for number in range(5):
        file = write(tmp_path / f"{number}.png", number)
        expected = open_source(file, "RGB").rows(0, 20)
        assert np.array_equal(open_source(file, "RGB", cache).rows(0, 20), expected)
    assert len(files(cache)) == 2
    assert used(cache) <= 5000
    assert [r.message for r in caplog.records] == [
        "the cache cache is full (0.0 GB, dataset.cache.max_gb); further images are decoded each "
        "time"
    ]
    open_source(str(tmp_path / "0.png"), "RGB", cache)  # what is there is still used
    other = DecodedCache(str(tmp_path / "cache"), 1)  # a larger limit, later
    open_source(str(tmp_path / "4.png"), "RGB", other)
    assert len(files(other)) == 3


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_is_made_anew(cache, image, damage):
    expected = open_source(image, "RGB", cache).rows(0, 20).copy()
    (entry,) = files(cache)
    entry.write_bytes(entry.read_bytes()[:-100] if damage is None else damage)
    assert np.array_equal(open_source(image, "RGB", cache).rows(0, 20), expected)
    assert np.array_equal(cache.get(image, "RGB", never), expected)


def test_an_entry_is_never_unpickled(cache, image):
    open_source(image, "RGB", cache)
    (entry,) = files(cache)
    np.save(entry, np.array([print], dtype=object), allow_pickle=True)
    assert open_source(image, "RGB", cache).rows(0, 20).dtype == np.uint8


def test_a_full_disk_ends_caching_not_training(cache, image, monkeypatch, caplog):
    def full(file, pixels):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.np, "save", full)
    expected = open_source(image, "RGB").rows(0, 20)
    for _ in range(2):
        assert np.array_equal(open_source(image, "RGB", cache).rows(0, 20), expected)
    assert files(cache) == []
    assert used(cache) == 0
    (record,) = caplog.records
    assert "takes no more: No space left on device" in record.message


def test_a_missing_file_is_named(cache, tmp_path):
    with pytest.raises(DatasetError, match=r"none\.png \(missing"):
        open_source(str(tmp_path / "none.png"), "RGB", cache)


def test_a_cache_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"dataset\.cache\.folder=.*file: "):
        DecodedCache(str(tmp_path / "file"), 1)
    with pytest.raises(ValueError, match=r"dataset\.cache\.max_gb=0 must be a number, above 0"):
        DecodedCache(str(tmp_path / "cache"), 0)
    with pytest.raises(DatasetError, match=r"dataset\.cache\.folder is empty: .* null"):
        decoded_cache("", 100)


def test_without_a_folder_there_is_none(monkeypatch, tmp_path):
    assert decoded_cache(None, 100) is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert decoded_cache("~/cache", 1).folder == tmp_path / "cache"


def test_a_lost_count_is_made_anew(cache, image):
    open_source(image, "RGB", cache)
    before = used(cache)
    (cache.folder / "bytes_used").write_text("")
    DecodedCache(str(cache.folder), 1)
    assert used(cache) == before
