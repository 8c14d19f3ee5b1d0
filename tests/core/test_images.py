"""Ids of pixels, their colors, and the segments that they belong to; files that cannot be read."""

import io
import os
import re
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image, PngImagePlugin

from panoptic_dl.core.errors import DatasetError, EvaluationError, UnreadableImageError
from panoptic_dl.core.images import (
    NUM_IDS,
    colors_to_ids,
    ids_to_colors,
    open_image,
    read_classes,
    read_image,
    read_label_ids,
    read_panoptic_ids,
    read_size,
    require_listed_size,
    require_same_size,
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


def test_more_segments_than_16_bits_count_are_refused():
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


READERS = {
    "image": lambda file: read_image(file, "RGB"),
    "panoptic": read_panoptic_ids,
    "label": read_label_ids,
}


def refused(file, kind, message):
    """Reader and header refuse a file in the same words, as errors of data and of evaluation."""
    words = set()
    for read in (READERS[kind], lambda f: read_size(f, kind)):
        with pytest.raises(DatasetError, match=f"^{re.escape(str(file))} {message}") as caught:
            read(file)
        assert isinstance(caught.value, EvaluationError)
        words.add(str(caught.value))
    assert len(words) == 1


def save_deep(file, pixels):
    assert cv2.imwrite(str(file), pixels.astype(np.uint16))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_more_than_8_bits_are_refused_and_not_clipped(tmp_path, suffix):
    file, colors = tmp_path / f"deep.{suffix}", np.full((3, 4, 3), 7)
    save_deep(file, colors[..., 0] * 9000)
    refused(file, "image", r"has more than 8 bits a pixel \(mode I;16\): write it anew")
    assert (read_label_ids(file) == 63000).all()  # instanceIds of Cityscapes are so
    with pytest.raises(DatasetError, match=f"{file} holds the number 63000: classes are"):
        read_classes(file)
    for pixels in (colors, colors[..., 0], np.dstack((colors, colors[..., :1]))):
        save_deep(file, pixels)
        refused(file, "panoptic", r"has more than 8 bits a channel: .*write it anew with colors")
    refused(file, "label", "is no label of one number a pixel: its mode is")


@pytest.mark.parametrize(
    ("mode", "format", "kind", "message"),
    [
        ("L", "PNG", "panoptic", "is no panoptic label: its mode is L, not RGB"),
        ("LA", "PNG", "panoptic", "is no panoptic label: its mode is LA, not RGB"),
        ("CMYK", "TIFF", "panoptic", "is no panoptic label: its mode is CMYK, not RGB"),
        ("RGB", "JPEG", "panoptic", "is JPEG, which may blur ids: labels must be PNG"),
        ("L", "JPEG", "label", "is JPEG, which may blur ids: labels must be PNG"),
        ("F", "TIFF", "image", "has more than 8 bits a pixel"),
        ("F", "TIFF", "label", "is no label of one number a pixel: its mode is F"),
    ],
)
def test_a_mode_or_format_that_a_kind_cannot_have_is_refused(tmp_path, mode, format, kind, message):
    file = tmp_path / "file"
    Image.new("RGB", (4, 3), (9, 8, 7)).convert(mode).save(file, format)
    refused(file, kind, message)


def test_an_image_above_pillows_limit_is_refused_by_all_readers(tmp_path, monkeypatch):
    file = tmp_path / "large.png"
    Image.new("RGB", (10, 11)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 54)
    for read in (*READERS.values(), read_classes, read_size, open_image):
        with pytest.raises(
            UnreadableImageError, match=rf"cannot read {file} \(it has more than 108 pixels.*tiles"
        ):
            read(file)


def test_colors_of_a_panoptic_label_may_be_stored_in_any_way(tmp_path, recwarn):
    ids = np.random.default_rng(0).choice([0, 11, 26_001, NUM_IDS - 1], (5, 7))
    image = Image.fromarray(ids_to_colors(ids))
    faint = image.convert("RGBA")
    faint.putalpha(7)
    palette = image.quantize(4)
    for number, (each, options) in enumerate(
        [
            (image, {}),
            (faint, {}),
            (palette, {}),
            (palette, {"bits": 2}),
            (palette, {"transparency": bytes(4)}),
        ]
    ):
        file = tmp_path / f"{number}.png"
        each.save(file, **options)
        assert np.array_equal(read_panoptic_ids(file), ids)
        assert np.array_equal(read_image(file, "RGB"), ids_to_colors(ids))
        assert np.array_equal(read_image(file, "BGR"), ids_to_colors(ids)[..., ::-1])
    gray = Image.fromarray(np.uint8([[0, 1, 2]]))
    gray.putpalette([9, 9, 9, 0, 0, 0, 3, 3, 3])
    gray.save(file, transparency=bytes([0, 9, 255]))
    assert read_classes(file).tolist() == [[9, 0, 3]]
    assert not recwarn  # none of them is unusual


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_a_label_that_is_void_throughout_may_be_gray(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "void.png")
    assert not read_panoptic_ids(tmp_path / "void.png").any()


def test_numbers_of_a_label_may_be_stored_in_any_way(tmp_path):
    numbers = np.random.default_rng(0).choice([0, 7, 255], (5, 7)).astype(np.uint8)
    image = Image.fromarray(numbers)
    positions = Image.fromarray(numbers % 3).copy()
    positions.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # as annotation tools color classes
    for number, (each, expected) in enumerate(
        [
            (image, numbers),
            (image.convert("RGB"), numbers),
            (image.convert("LA"), numbers),
            (image.quantize(3), numbers),
            (positions, numbers % 3),
            (Image.fromarray(numbers > 7), np.where(numbers > 7, 255, 0)),
        ]
    ):
        file = tmp_path / f"{number}.png"
        each.save(file)
        assert np.array_equal(read_label_ids(file), expected)
        assert np.array_equal(read_classes(file), expected)
        assert read_classes(file).dtype == np.uint8
    Image.fromarray(ids_to_colors(np.arange(6).reshape(2, 3))).save(tmp_path / "colors.png")
    for read in (read_label_ids, read_classes):
        with pytest.raises(EvaluationError, match="one number a pixel: it has colors"):
            read(tmp_path / "colors.png")


def turned_files(folder, orientation):
    """A file of each way in which an orientation is stored."""
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(ids_to_colors(np.arange(6 * 9).reshape(6, 9) + 1))
    for suffix in ("jpg", "png", "tif", "webp"):
        image.save(folder / f"a.{suffix}", exif=exif)
        yield folder / f"a.{suffix}"
    plain = io.BytesIO()
    image.save(plain, "PNG")
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + f'<x tiff:Orientation="{orientation}"/>'.encode()
    for name, chunk in (("late", b"eXIf" + body), ("xmp", b"iTXt" + xmp)):
        content = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (folder / f"{name}.png").write_bytes(
            plain.getvalue()[:-12] + content + plain.getvalue()[-12:]
        )
        yield folder / f"{name}.png"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_labels_are_turned_upright_and_so_is_the_size_of_a_header(tmp_path, orientation):
    ids = np.arange(6 * 9).reshape(6, 9) + 1
    turns = [
        ids,
        ids[:, ::-1],
        ids[::-1, ::-1],
        ids[::-1],
        ids.T,
        ids[::-1].T,
        ids[::-1, ::-1].T,
        ids[:, ::-1].T,
    ]
    expected = turns[orientation - 1]
    for file in turned_files(tmp_path, orientation):
        assert read_image(file, "RGB").shape[:2] == read_size(file) == expected.shape, file
        if file.suffix in (".png", ".tif"):
            assert np.array_equal(read_panoptic_ids(file), expected), file
            assert np.array_equal(colors_to_ids(read_image(file, "RGB")), expected)
            assert read_size(file, "panoptic") == expected.shape


def test_the_header_of_a_png_suffices_for_its_size(tmp_path, monkeypatch):
    Image.new("RGB", (9, 6)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    for kind in ("image", "panoptic"):
        assert read_size(tmp_path / "a.png", kind) == (6, 9)


def test_sizes_that_differ_are_told_with_their_cause(tmp_path):
    file = str(tmp_path / "a.jpg")
    exif = Image.Exif()
    for orientation, cure in (
        (1, "correct the one that is wrong"),
        (6, "the image is turned by its EXIF orientation"),
    ):
        exif[274] = orientation
        Image.new("RGB", (9, 6)).save(file, exif=exif)
        shape = read_size(file)
        high, wide = shape
        record = {"file_name": file, "height": wide, "width": high}
        listed = f"its entry in the JSON file is {high} x {wide}, {file} is {wide} x {high} "
        with pytest.raises(DatasetError, match=rf"{listed}\(width x height\); {cure}"):
            require_listed_size(record, shape)
        label = rf"b.png is {high} x {wide}, {file} is {wide} x {high} .*{cure}"
        with pytest.raises(DatasetError, match=label):
            require_same_size((wide, high), "b.png", shape, file)
        record = {"file_name": file}
        require_listed_size(record, shape)
        assert (record["height"], record["width"]) == shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), (b"", "no image that Pillow knows"), (b"text", "truncated or damaged: ")],
)
def test_a_file_that_cannot_be_read_is_named_by_every_reader(tmp_path, content, reason):
    file = tmp_path / "a.png"
    if content is not None:
        file.write_bytes(content)
    for read in (*READERS.values(), read_classes, read_size, open_image):
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


def test_a_label_is_read_again_when_its_file_has_changed(tmp_path):
    file = tmp_path / "label.png"
    for value in (1, 2):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(file)
        os.utime(file, ns=(value, value))
        label = read_label_ids(file)
        assert (label == value).all()
        assert read_label_ids(file) is label
        assert not label.flags.writeable
