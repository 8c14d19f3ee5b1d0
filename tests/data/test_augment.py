"""Cropping first gives the pixels that resizing first gives, from the same random numbers."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl.core.images import ids_to_colors
from panoptic_dl.data.augment import Augment, _nearest, _order_of_passes
from panoptic_dl.data.sources import IDS, Source


def files(seed, height, width):
    """An image, the ids of its panoptic label, and its classes: as they are, and as sources."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    ids = random.integers(0, 256**3, (height, width)).astype(np.uint32)
    classes = random.integers(0, 19, (height, width)).astype(np.uint8)
    sources = [
        Source("file", kind, pixels.shape, lambda *rows, pixels=pixels: pixels[slice(*rows)])
        for kind, pixels in (("RGB", image), (IDS, ids), ("L", classes))
    ]
    return (image, ids, classes), sources


def detectron2s(augmentations, image, label, seed):
    np.random.seed(seed)  # noqa: NPY002
    pixels = T.AugInput(image, sem_seg=label)
    T.AugmentationList(augmentations)(pixels)
    return pixels.image, pixels.sem_seg, np.random.rand()  # noqa: NPY002


def ours(augmentations, image, label, seed, method="crop_first"):
    np.random.seed(seed)  # noqa: NPY002
    made = Augment(augmentations, method)(image, label)
    return *made, np.random.rand()  # noqa: NPY002


def assert_equal(augmentations, seed, height, width, method="crop_first"):
    (image, ids, classes), (image_source, id_source, class_source) = files(seed, height, width)
    expected = detectron2s(augmentations, image, ids_to_colors(ids), seed)
    made = ours(augmentations, image_source, id_source, seed, method)
    assert np.array_equal(made[0], expected[0])
    assert np.array_equal(ids_to_colors(made[1]), expected[1])
    assert made[2] == expected[2]  # as many random numbers were drawn
    expected = detectron2s(augmentations, image, classes, seed)
    made = ours(augmentations, image_source, class_source, seed, method)
    assert np.array_equal(made[0], expected[0])
    assert np.array_equal(made[1], expected[1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    short=st.integers(5, 200),
    longest=st.integers(8, 300),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_recipes_give_detectron2s_pixels(seed, height, width, short, longest, crop):
    augmentations = [
        T.ResizeShortestEdge([short, short + 13], longest, "choice"),
        T.RandomCrop("absolute", crop),
        T.RandomFlip(),
    ]
    # Else nothing is left of an image, which Pillow refuses.
    assume(longest * min(height, width) > max(height, width))
    assert_equal(augmentations, seed, height, width)


@pytest.mark.parametrize("short", [512, 640, 704, 832, 1024, 1216, 1920, 2048])
def test_the_published_sizes(short):
    augmentations = [
        T.ResizeShortestEdge([short], 4096, "choice"),
        T.RandomCrop("absolute", (512, 1024)),
        T.RandomFlip(),
    ]
    assert_equal(augmentations, short, 1024, 2048)


OTHERS = {
    "colors in between": [T.ResizeShortestEdge(60), T.RandomBrightness(0.5, 1.5), T.RandomFlip()],
    "flip before crop": [T.RandomFlip(), T.RandomCrop("absolute", (20, 30))],
    "two sizes": [T.ResizeShortestEdge(60), T.ResizeShortestEdge(45), T.RandomFlip()],
    "crop before resize": [T.RandomCrop("absolute", (30, 30)), T.ResizeShortestEdge(50)],
    "both flips": [T.RandomFlip(vertical=True, horizontal=False), T.RandomFlip(0.5)],
    "two crops": [T.RandomCrop("relative", (0.9, 0.8)), T.RandomCrop("absolute", (20, 30))],
    "upside down": [T.RandomFlip(1.0, vertical=True, horizontal=False)],
    "rotation": [T.ResizeShortestEdge(60), T.RandomRotation([-10, 10], expand=False)],
    "a category's largest share": [
        T.ResizeShortestEdge([60, 80], sample_style="choice"),
        T.RandomCrop_CategoryAreaConstraint("absolute", (20, 30), 0.06, 255),
        T.RandomFlip(),
    ],
    "any share": [T.RandomCrop_CategoryAreaConstraint("absolute", (20, 30), 1.0, 255)],
    "nothing": [],
    "no operation": [T.NoOpTransform()],
    "nearest": [T.ResizeShortestEdge(60, interp=Image.Resampling.NEAREST)],
    "a fixed size": [T.Resize((33, 47)), T.RandomCrop("absolute", (20, 30))],
    "a crop of nothing": [T.ResizeShortestEdge(60), T.RandomCrop("relative", (0.5, 0.001))],
    "padding": [T.FixedSizeCrop((100, 100))],
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("method", ["crop_first", "reference"])
def test_other_augmentations_too(name, method):
    for seed in range(6):
        augmentations = OTHERS[name]
        (image, _, classes), (image_source, _, class_source) = files(seed, 48, 64)
        expected = detectron2s(augmentations, image, classes, seed)
        made = ours(augmentations, image_source, class_source, seed, method)
        assert np.array_equal(made[0], expected[0])
        assert np.array_equal(made[1], expected[1])
        assert made[2] == expected[2]


def test_the_reference_is_detectron2s():
    augmentations = [T.ResizeShortestEdge(60), T.RandomCrop("absolute", (20, 30)), T.RandomFlip()]
    assert_equal(augmentations, 0, 48, 64, "reference")


def test_only_the_rows_of_the_crop_are_read():
    asked = []
    (image, _, classes), _ = files(0, 1000, 500)
    sources = [
        Source("file", kind, p.shape, lambda *rows, p=p: (asked.append(rows), p[slice(*rows)])[1])
        for kind, p in (("RGB", image), ("L", classes))
    ]
    augment = Augment([T.ResizeShortestEdge(1000), T.CropTransform(10, 20, 100, 100)])
    assert augment.plan((1000, 500)).rows == (1000, 2000, 20, 120)
    augment(*sources)
    assert min(start for start, _ in asked) > 5
    assert max(stop for _, stop in asked) < 70


@pytest.mark.parametrize(
    "sizes",
    [((48, 64), (96, 128)), ((60, 80), (64, 85)), ((80, 60), (85, 64)), ((180, 49), (78, 21))],
)
def test_the_order_of_passes_is_that_of_colors(sizes):
    old, new = sizes
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*old, 3)).astype(np.uint8))
    order = _order_of_passes(old, new)
    between = (old[1], new[0]) if order == (0, 1) else (new[1], old[0])
    bilinear = Image.Resampling.BILINEAR
    two = image.resize(between, bilinear).resize((new[1], new[0]), bilinear)
    assert order is not None
    assert two == image.resize((new[1], new[0]), bilinear)


@pytest.mark.parametrize("sizes", [(7, 20), (20, 7), (1024, 640), (1024, 1216), (5, 5), (3, 1)])
def test_nearest_rows_and_columns_are_pillows(sizes):
    old, new = sizes
    column = np.arange(old, dtype=np.uint8)[:, None].repeat(3, 1)
    resized = Image.fromarray(column).resize((3, new), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(resized)[:, 0], _nearest(old, new).astype(np.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_large_scale_jitter_touches_the_crop_only(seed):
    jitter = [
        T.ResizeScale(0.1, 2.0, 40, 60),
        T.RandomCrop("absolute", [40, 60]),
        T.RandomFlip(),
    ]
    assert_equal(jitter, seed, 37 + seed, 64)
    _, (image, *_) = files(seed, 37, 64)
    assert not Augment(jitter).plan(image.shape).rest
