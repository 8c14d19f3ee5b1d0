"""The first rows of a PNG are those that Pillow reads; everything unusual is left to Pillow."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from panoptic_dl.core import images
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.data import sources
from panoptic_dl.data.sources import IDS, _decode_rows, _plain_png, open_source


def first_rows(content, num_rows):
    return rows_of(content, 0, num_rows)


def rows_of(content, start, stop):
    shape = _plain_png(content)
    return None if shape is None else _decode_rows(content, shape, start, stop)


def picture(seed, height, width, channels=3, smooth=False):
    random = np.random.default_rng(seed)
    shape = (height, width, 3) if channels == 3 else (height, width)
    noise = random.integers(0, 256, shape).astype(np.uint8)
    return cv2.blur(noise, (5, 5)).reshape(shape) if smooth else noise


def encode(pixels, level=6, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level, **options)
    return file.getvalue()


def filtered_by(pixels, kind):
    """A PNG whose every row has the filter `kind` (PNG specification, section 9)."""
    rows, width = pixels.shape[0], pixels.shape[1]
    bytes_per_pixel = 1 if pixels.ndim == 2 else 3
    flat = np.zeros((rows + 1, (width + 1) * bytes_per_pixel), np.int64)  # a border of zeros
    flat[1:, bytes_per_pixel:] = pixels.reshape(rows, -1)
    here, left = flat[1:, bytes_per_pixel:], flat[1:, :-bytes_per_pixel]
    above, corner = flat[:-1, bytes_per_pixel:], flat[:-1, :-bytes_per_pixel]
    guess = left + above - corner
    distances = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
    paeth = np.choose(distances.argmin(0), [left, above, corner])
    predicted = [0 * here, left, above, (left + above) // 2, paeth][kind]
    raw = np.concatenate([np.full((rows, 1), kind), (here - predicted) % 256], 1).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, rows, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (
            *((b"IHDR", header), (b"IDAT", zlib.compress(raw.tobytes()))),
            (b"IEND", b""),
        )
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    smooth=st.booleans(),
    level=st.integers(0, 9),
    share=st.floats(0, 1),
)
def test_decode_rows_are_those_that_were_encoded(
    seed, height, width, channels, smooth, level, share
):
    pixels = picture(seed, height, width, channels, smooth)
    content = encode(pixels, level)
    assert _plain_png(content) == (height, width, channels)
    rows = max(1, round(share * height))
    assert np.array_equal(first_rows(content, rows), pixels[:rows])
    assert np.array_equal(rows_of(content, rows // 2, rows), pixels[rows // 2 : rows])
    assert np.array_equal(first_rows(content, 10_000), pixels)


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("decoder", ["libspng", "OpenCV"])
def test_every_filter_of_rows_is_undone(kind, channels, decoder, monkeypatch):
    if decoder == "OpenCV":
        monkeypatch.setattr(sources, "pyspng", None)  # as where there is no wheel of it
    pixels = picture(kind, 23, 31, channels)
    content = filtered_by(pixels, kind)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    for start, stop in ((0, 1), (0, 2), (1, 2), (5, 22), (22, 23)):
        assert np.array_equal(rows_of(content, start, stop), pixels[start:stop])


@pytest.mark.parametrize("decoder", ["libspng", "OpenCV"])
def test_a_filter_that_there_is_none_of_is_left_to_pillow(tmp_path, decoder, monkeypatch):
    """As where bits of compressed data are wrong, which zlib may not notice."""
    if decoder == "OpenCV":
        monkeypatch.setattr(sources, "pyspng", None)
    pixels = picture(0, 23, 31)
    content = filtered_by(pixels, 0)
    start, stop = next(c[1:] for c in sources._chunks(content) if c[0] == b"IDAT")
    rows = bytearray(zlib.decompress(content[start:stop]))
    rows[5 * (31 * 3 + 1)] = 9
    body = sources._chunk(b"IDAT", zlib.compress(rows))
    damaged = b"".join([content[: start - 8], *body, *sources._chunk(b"IEND")])
    assert np.array_equal(rows_of(damaged, 0, 5), pixels[:5])
    assert rows_of(damaged, 0, 23) is rows_of(damaged, 4, 7) is None
    (tmp_path / "x.png").write_bytes(damaged)
    with pytest.raises(DatasetError, match=r"x\.png"):
        open_source(str(tmp_path / "x.png"), "RGB").rows()


def test_large_images_have_many_stored_blocks():
    pixels = picture(0, 300, 400)
    content = encode(pixels)
    assert content.count(b"IDAT") > 1
    assert np.array_equal(first_rows(content, 299), pixels[:299])


def test_damage_is_left_to_pillow():
    pixels = picture(0, 300, 400)
    content = encode(pixels)
    assert first_rows(content[:-1], 300) is None  # IEND is torn
    assert first_rows(content[: len(content) // 2], 1) is None
    hurt = bytearray(content)
    hurt[len(hurt) // 2] ^= 255
    assert first_rows(bytes(hurt), 300) is None  # by the checksum, if nothing else
    for nonsense in (b"", b"GIF89a", content[:20], b"\x89PNG\r\n\x1a\n" + bytes(100)):
        assert _plain_png(nonsense) is None


def unusual():
    """Files that Pillow turns into other pixels than the file has."""
    random = np.random.default_rng(0)
    gray = random.integers(0, 256, (20, 30)).astype(np.uint8)
    rgb = random.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    yield "palette", encode_image(Image.fromarray(rgb).quantize(16))
    yield "alpha", encode_image(Image.fromarray(rgb).convert("RGBA"))
    yield "16 bit", cv2.imencode(".png", rgb.astype(np.uint16) * 200)[1].tobytes()
    yield "one bit", encode_image(Image.fromarray(gray).convert("1"))
    exif = Image.Exif()
    exif[274] = 6
    yield "turned", encode(rgb, exif=exif)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    yield "turned by XMP", encode(rgb, pnginfo=text)


def encode_image(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


KINDS = ["RGB", "BGR", "L", IDS]


@pytest.mark.parametrize(("name", "content"), unusual(), ids=lambda x: x if type(x) is str else "")
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_files_are_left_to_the_readers(tmp_path, name, content, kind):
    assert _plain_png(content) is None
    file = tmp_path / "unusual.png"
    file.write_bytes(content)
    compare(str(file), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_usual_files_are_as_the_readers_have_them(tmp_path, kind, channels, suffix):
    file = tmp_path / f"usual.{suffix}"
    Image.fromarray(picture(1, 40, 50, channels)).save(file)
    compare(str(file), kind)


def compare(file, kind):
    """A source has the pixels of the reader, those of Detectron2, and refuses in its words."""
    if kind in ("RGB", "BGR"):
        expected = read_image(file, kind)
        assert np.array_equal(images.read_image(file, kind), expected)
    else:
        try:
            expected = {IDS: images.read_panoptic_ids, "L": images.read_classes}[kind](file)
        except DatasetError as error:
            with pytest.raises(DatasetError, match=re.escape(str(error))):
                open_source(file, kind)
            return
    source = open_source(file, kind)
    assert source.shape == expected.shape[:2]
    assert np.array_equal(source.rows(3, 7), expected[3:7])
    assert np.array_equal(source.rows(), expected)


def test_an_image_above_the_limit_is_left_to_pillow(monkeypatch):
    content = encode(picture(0, 10, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert _plain_png(content) == (10, 20, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    assert _plain_png(content) is None


def test_a_text_in_a_png_does_no_harm(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "camera")
    content = encode(picture(0, 9, 9), pnginfo=text)
    assert _plain_png(content) == (9, 9, 3)


def test_a_torn_file_is_named(tmp_path):
    file = tmp_path / "torn.png"
    file.write_bytes(encode(picture(0, 300, 400))[:-5000])
    with pytest.raises(DatasetError, match=r"torn\.png \(truncated or damaged"):
        open_source(str(file), "RGB").rows(0, 1)
    with pytest.raises(DatasetError, match=r"none\.png \(missing"):
        open_source(str(tmp_path / "none.png"), "RGB")
