"""Ids of pixels, their colors, and the segments that they belong to; files that cannot be read."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from panoptic_dl.core.errors import DatasetError, EvaluationError
from panoptic_dl.core.images import (
    NUM_IDS,
    SemanticLabelReader,
    colors_to_ids,
    ids_to_colors,
    read_image,
    read_label_ids,
    read_panoptic_ids,
    read_size,
    segment_numbers,
)

IDS = st.integers(0, 256**3 - 1)


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(IDS, min_size=1, max_size=30, unique=True),
    known=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([np.uint32, np.int32, np.int64]),
)
def test_numbers_are_positions(ids, known, seed, kind):
    pixels = np.random.default_rng(seed).choice(ids, (7, 9)).astype(kind)
    listed = ids[:known]
    expected = [[listed.index(i) + 1 if i in listed else 0 for i in row] for row in pixels.tolist()]
    assert segment_numbers(pixels, listed).tolist() == expected
    assert not segment_numbers(pixels, []).any()  # the table is empty again


def test_ids_that_no_pixel_can_have_match_none():
    pixels = np.array([[0, 5, 256**3 - 1]], np.uint32)
    numbers = segment_numbers(pixels, [-1, 256**3, 5, 0, 2**40])
    assert numbers.tolist() == [[4, 3, 0]]


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="two segments have the id 7"):
        segment_numbers(np.zeros((2, 2), np.uint32), [3, 7, 9, 7])
    with pytest.raises(ValueError, match="65536 segments in an image"):
        segment_numbers(np.zeros((2, 2), np.uint32), list(range(2**16)))


def test_threads_do_not_see_each_others_ids():
    wrong = []

    def work(offset):
        pixels = np.arange(1000, dtype=np.uint32).reshape(20, 50)
        for _ in range(200):
            numbers = segment_numbers(pixels, list(range(offset, 1000, 3)))
            wrong.extend(np.flatnonzero((numbers > 0) != (pixels % 3 == offset)))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_colors_are_panopticapis():
    colors = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    ids = colors_to_ids(colors)
    assert np.array_equal(ids, rgb2id(colors))
    assert np.array_equal(ids_to_colors(ids), id2rgb(ids))
    assert np.array_equal(ids_to_colors(ids.astype(np.int64)), colors)
    assert colors_to_ids(colors[:, :0]).shape == (13, 0)
    assert np.array_equal(colors_to_ids(colors[::2, ::-1]), rgb2id(colors[::2, ::-1]))


def test_labels_larger_than_a_byte_are_refused():
    with pytest.raises(ValueError, match="8 bit"):
        SemanticLabelReader(num_classes=256)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_images_of_16_bits_are_refused_and_not_clipped(tmp_path, suffix):
    file = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).save(file)
    with pytest.raises(DatasetError, match=rf"{file} has more than 8 bits a pixel \(mode I;16\)"):
        read_image(str(file), "RGB")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), (b"", "no image that Pillow knows"), (b"text", "truncated or damaged: ")],
)
def test_a_file_that_cannot_be_read_is_named_by_every_reader(tmp_path, content, reason):
    file = tmp_path / "a.png"
    if content is not None:
        file.write_bytes(content)
    for read in (lambda f: read_image(f, "RGB"), read_panoptic_ids, read_label_ids, read_size):
        with pytest.raises(DatasetError, match=rf"cannot read {file} \(.*{reason}"):
            read(file)
        with pytest.raises(EvaluationError):
            read(file)


def test_labels_are_read_as_they_are_stored(tmp_path):
    ids = np.random.default_rng(0).integers(0, NUM_IDS, (5, 7))
    Image.fromarray(ids_to_colors(ids)).save(tmp_path / "ids.png")
    assert np.array_equal(read_panoptic_ids(tmp_path / "ids.png"), ids)
    assert read_size(tmp_path / "ids.png") == (5, 7)
    numbers = (ids % 65536).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "numbers.png")
    assert np.array_equal(read_label_ids(tmp_path / "numbers.png"), numbers)
    with pytest.raises(EvaluationError, match="is no panoptic label: its mode is I;16"):
        read_panoptic_ids(tmp_path / "numbers.png")
    with pytest.raises(EvaluationError, match="is no label: it has 3 channels"):
        read_label_ids(tmp_path / "ids.png")


def test_a_label_is_read_again_when_its_file_has_changed(tmp_path):
    file = tmp_path / "label.png"
    for value in (1, 2):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(file)
        os.utime(file, ns=(value, value))
        label = read_label_ids(file)
        assert (label == value).all()
        assert read_label_ids(file) is label
        assert not label.flags.writeable
