"""Images of every kind are read as for training, and labels are brought to their size."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from panoptic_dl.core import images
from panoptic_dl.core.errors import DemoError, UnreadableImageError
from panoptic_dl.runtime.prediction import _labels_at, read_pixels
from tests.demo.samples import scene

RGB = scene(24, 40)


def read(image):
    pixels, notes = read_pixels(image)
    return SimpleNamespace(pixels=pixels, notes=notes)


def saved(image, file, **options):
    image.save(file, **options)
    return read(file)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif"])
def test_usual_pictures_are_those_that_detectron2_reads(tmp_path, name):
    picture = saved(Image.fromarray(RGB), tmp_path / name)
    assert np.array_equal(picture.pixels, read_image(str(tmp_path / name), "RGB"))
    assert picture.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = saved(Image.fromarray(RGB), tmp_path / "a.jpg", exif=exif)
    assert np.array_equal(picture.pixels, read_image(str(tmp_path / "a.jpg"), "RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode):
    picture = read(Image.fromarray(RGB).convert(mode))
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == RGB.shape
    expected = np.asarray(Image.fromarray(RGB).convert(mode).convert("RGB"))
    assert np.array_equal(picture.pixels, expected)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGBA", {}), ("LA", {}), ("P", {"transparency": 3}), ("L", {"transparency": 9})],
)
def test_alpha_is_ignored_as_the_network_was_trained(tmp_path, mode, options):
    image = Image.fromarray(RGB).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(RGB[..., 0]))
    picture = saved(image, tmp_path / "a.png", **options)
    assert np.array_equal(picture.pixels, images.read_image(tmp_path / "a.png", "RGB"))
    assert np.array_equal(read(Image.open(tmp_path / "a.png")).pixels, picture.pixels)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_gray_of_many_bits_is_refused_in_the_words_of_training(tmp_path, mode):
    file = tmp_path / "a.tif"
    Image.new(mode, (6, 5), 7).save(file)
    with pytest.raises(UnreadableImageError) as of_training:
        images.read_image(file, "RGB")
    with pytest.raises(DemoError) as error:
        read(file)
    assert str(error.value) == str(of_training.value)
    with pytest.raises(DemoError, match="the image has more than 8 bits a pixel"):
        read(Image.open(file))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_of_several_frames_the_first_is_taken_and_this_is_said(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    picture = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    assert np.abs(picture.pixels[8, 8].astype(int) - (255, 0, 0)).max() <= 3
    assert "the first of 3" in picture.notes[0]


def test_what_is_no_picture_is_one_error_that_names_the_file(tmp_path):
    png = tmp_path / "a.png"
    Image.fromarray(RGB).save(png)
    whole = png.read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:-400])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    damaged = bytearray(whole)
    damaged[60:90] = b"\0" * 30
    (tmp_path / "bits.png").write_bytes(damaged)
    for name in ("torn.png", "text.jpg", "empty.jpg", "bits.png", "none.png", "."):
        with pytest.raises(DemoError) as error:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_torn_pictures_are_refused_whatever_pillow_is_told(tmp_path, monkeypatch):
    Image.fromarray(scene(80, 80)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DemoError, match="truncated"):
        read(tmp_path / "a.jpg")


def test_a_picture_too_large_for_pillows_guard_is_an_error(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DemoError, match=r"a\.png \(it has more than 200 pixels"):
        read(tmp_path / "a.png")


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]))
def test_no_bytes_raise_anything_else(tmp_path_factory, data, head):
    file = tmp_path_factory.getbasetemp() / "bytes.png"
    file.write_bytes(head + data)
    with contextlib.suppress(DemoError):
        assert read(file).pixels.ndim == 3


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_must_be_rgb(array):
    with pytest.raises(DemoError, match="is no image"):
        read(array)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 60), st.integers(1, 60), st.data())
def test_labels_come_from_their_neighbourhood(height, width, new_height, new_width, data):
    values = data.draw(
        st.lists(st.integers(-1, 5), min_size=height * width, max_size=height * width)
    )
    labels = np.array(values, np.int32).reshape(height, width)
    resized = _labels_at(labels, (new_height, new_width))
    assert resized.dtype == labels.dtype
    assert resized.shape == (new_height, new_width)
    assert set(np.unique(resized)) <= set(np.unique(labels))
    if labels.shape == (new_height, new_width):
        assert np.array_equal(resized, labels)


def test_lines_and_sides_keep_their_places_when_labels_are_enlarged():
    labels = np.zeros((8, 8), np.int32)
    labels[:, 3] = 7
    labels[5:] = 2
    for factor in (2, 3, 4, 6):
        large = _labels_at(labels, (8 * factor, 8 * factor))
        assert (large[: 4 * factor, 3 * factor : 4 * factor] == 7).all()
        assert (large[5 * factor :] == 2).all()
        assert (large[: 4 * factor, : 3 * factor] == 0).all()
