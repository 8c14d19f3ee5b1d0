"""Panoptic maps: equal to Detectron2's in every pixel, and what Detectron2 cannot do."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_dl.postprocess import get_panoptic_segmentation, get_panoptic_segmentations
from tests.postprocess.detectron2_reference import (
    ARGUMENTS,
    assert_equal_to_reference,
    random_maps,
    reference,
)


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    seed=st.integers(0, 2**20),
    num_centers=st.integers(1, 30),
    noise=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    top_k=st.sampled_from([1, 2, 3, 10, None]),
    nms_kernel=st.sampled_from([1, 3, 7, 41]),
    stuff_area=st.sampled_from([0, 1, 16, 60, 10**6]),
    threshold=st.sampled_from([-1.0, 0.0, 0.1, 0.5]),
)
def test_random_scenes(
    height, width, seed, num_centers, noise, top_k, nms_kernel, stuff_area, threshold
):
    maps = random_maps(height, width, seed, num_centers=num_centers, noise=noise)
    top_k = top_k if top_k is None else min(top_k, height * width)
    assert_equal_to_reference(
        *maps, top_k=top_k, nms_kernel=nms_kernel, stuff_area=stuff_area, threshold=threshold
    )


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    seed=st.integers(0, 2**20),
    levels=st.sampled_from([1, 2, 3, 5]),
    step=st.sampled_from([0.5, 1.0, 4.0]),
    reach=st.sampled_from([0, 1, 3, 20]),
)
def test_few_values_make_ties_everywhere(height, width, seed, levels, step, reach):
    """Plateaus in the heatmap, equidistant centers, equal votes, scores that tie at `top_k`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    sem_seg = draw(0, 8, 1, height, width)
    heatmap = draw(0, levels + 1, 1, height, width) / levels
    offsets = draw(-reach, reach + 1, 2, height, width) * step
    assert_equal_to_reference(
        sem_seg, heatmap, offsets, nms_kernel=3, stuff_area=3, top_k=min(20, height * width)
    )
    assert_equal_to_reference(sem_seg, heatmap, offsets, nms_kernel=1, stuff_area=1, top_k=None)


def test_large_scenes():
    for seed, num_centers in ((0, 40), (1, 90)):
        maps = random_maps(260, 300, seed, num_centers=num_centers, noise=4.0)
        _, centers = assert_equal_to_reference(*maps, top_k=200, stuff_area=500)
        assert centers.shape[1] > num_centers / 2


def single_peak(height=20, width=24, at=(10, 12)):
    sem_seg, heatmap, offsets = random_maps(height, width, seed=5)
    heatmap = torch.zeros_like(heatmap)
    heatmap[0, at[0], at[1]] = 0.9
    return sem_seg, heatmap, offsets


def test_centres_but_no_things():
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=1, classes=3)
    panoptic, centers = assert_equal_to_reference(sem_seg, heatmap, offsets)
    assert centers.shape[1] > 0
    assert (panoptic % 1000 <= 0).all()


def test_a_centre_without_pixels_takes_no_number():
    """Of two centers, every pixel points to the second; its class is the lowest of all."""
    sem_seg = torch.full((1, 9, 9), 3)
    heatmap = torch.zeros(1, 9, 9)
    heatmap[0, [1, 7], [1, 7]] = 1
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    panoptic, centers = assert_equal_to_reference(sem_seg, heatmap, 7 - torch.stack((y, x)))
    assert centers.tolist() == [[[1, 1], [7, 7]]]
    assert (panoptic == 3001).all()


def test_all_things_and_none_of_them_declared():
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=1)
    assert_equal_to_reference(sem_seg % 4 + 3, heatmap, offsets)
    assert_equal_to_reference(sem_seg, heatmap, offsets, thing_ids=())
    assert_equal_to_reference(sem_seg, heatmap, offsets, thing_ids={4: 4, 99999: 5}.keys())


def test_a_single_centre():
    panoptic, centers = assert_equal_to_reference(*single_peak())
    assert centers.tolist() == [[[10, 12]]]
    assert len(panoptic.unique()) > 2


def test_the_threshold_is_exclusive_in_single_precision():
    sem_seg, heatmap, offsets = single_peak()
    tenth = torch.tensor(0.1)
    for value in (tenth, torch.nextafter(tenth, torch.tensor(1.0)), torch.tensor(0.0)):
        heatmap[0, 10, 12] = value
        _, centers = assert_equal_to_reference(sem_seg, heatmap, offsets)
        assert centers.shape[1] == int(value > tenth)


def test_centres_are_above_zero_whatever_the_threshold():
    sem_seg, heatmap, offsets = random_maps(30, 34, seed=2, num_centers=12)
    heatmap = heatmap - 0.5
    _, centers = assert_equal_to_reference(sem_seg, heatmap, offsets, threshold=-1.0, nms_kernel=3)
    assert centers.shape[1] > 0
    assert (heatmap[0, centers[0, :, 0], centers[0, :, 1]] > 0).all()
    assert_equal_to_reference(sem_seg, heatmap - 0.6, offsets, threshold=-1.0, nms_kernel=3)


def test_of_equal_scores_at_the_limit_none_is_a_centre():
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=1)
    heatmap = torch.zeros_like(heatmap)
    heatmap[0, 2, [2, 7, 12, 17, 22]] = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.7])
    counts = []
    for top_k in (1, 2, 3, 4, 5, 6):
        _, centers = assert_equal_to_reference(sem_seg, heatmap, offsets, top_k=top_k, nms_kernel=3)
        counts.append(centers.shape[1])
    assert counts == [0, 1, 2, 2, 2, 5]


def test_heatmaps_that_are_not_finite():
    sem_seg, heatmap, offsets = random_maps(30, 34, seed=2, num_centers=20)
    heatmap[0, 3, 4] = math.nan
    heatmap[0, 12, 30] = math.inf
    heatmap[0, 20:22, 3:8] = -math.inf
    _, centers = assert_equal_to_reference(sem_seg, heatmap, offsets, nms_kernel=5)
    assert centers.shape[1] > 2
    with_nan = (centers[0] - torch.tensor([3, 4])).abs().amax(1) <= 2
    assert not with_nan.any()


def test_void_classes_and_negative_ones():
    sem_seg, heatmap, offsets = random_maps(30, 34, seed=4)
    sem_seg[0, :10] = 255
    sem_seg[0, 10:14, :20] = -1
    panoptic, _ = assert_equal_to_reference(sem_seg, heatmap, offsets)
    assert {255000, -1000} <= set(panoptic.flatten().tolist())


def test_views_of_other_tensors():
    sem_seg, heatmap, offsets = random_maps(30, 34, seed=7)
    turned = [maps.transpose(1, 2) for maps in (sem_seg, heatmap, offsets.flip(0))]
    assert not turned[2].is_contiguous()
    assert_equal_to_reference(*turned)
    strided = [
        maps.repeat_interleave(2, 2).repeat_interleave(3, 1)[:, ::3, ::2]
        for maps in (sem_seg, heatmap, offsets)
    ]
    assert_equal_to_reference(*strided)
    row = offsets[:, :1].expand(2, 30, 34)
    column = sem_seg[:, :, :1].expand(1, 30, 34)
    assert_equal_to_reference(column, heatmap, row)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_values_in_single(dtype):
    sem_seg, heatmap, offsets = random_maps(40, 44, seed=8, num_centers=15)
    heatmap, offsets = heatmap.to(dtype), offsets.to(dtype)
    panoptic, centers = get_panoptic_segmentation(sem_seg, heatmap, offsets, **ARGUMENTS)
    expected = reference(sem_seg, heatmap.float(), offsets.float(), **ARGUMENTS)
    assert torch.equal(panoptic, expected[0])
    assert torch.equal(centers, expected[1])


def test_double_precision():
    sem_seg, heatmap, offsets = random_maps(40, 44, seed=8, num_centers=15)
    generator = torch.Generator().manual_seed(1)
    offsets = offsets.double() + torch.rand(offsets.shape, generator=generator).double() / 3
    assert_equal_to_reference(sem_seg, heatmap.double(), offsets)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_integer_types_are_kept(dtype):
    sem_seg, heatmap, offsets = random_maps(20, 24, seed=8)
    panoptic, _ = assert_equal_to_reference(sem_seg.to(dtype), heatmap, offsets)
    assert panoptic.dtype == dtype


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_images_of_one_pixel_row_or_column(size):
    height, width = size
    sem_seg = torch.full((1, height, width), 3)
    heatmap, offsets = torch.full((1, height, width), 0.5), torch.zeros(2, height, width)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        reference(sem_seg, heatmap, offsets, **ARGUMENTS | {"top_k": 1})
    panoptic, centers = get_panoptic_segmentation(
        sem_seg, heatmap, offsets, **ARGUMENTS | {"nms_kernel": 3}
    )
    assert centers.shape == (1, height * width, 2)
    assert sorted(panoptic.flatten().tolist()) == [3001 + i for i in range(height * width)]


def test_top_k_above_the_number_of_pixels_keeps_every_centre():
    maps = random_maps(5, 6, seed=0)
    with pytest.raises(RuntimeError):
        reference(*maps, **ARGUMENTS | {"top_k": 31})
    panoptic, centers = get_panoptic_segmentation(*maps, **ARGUMENTS | {"top_k": 31})
    expected = reference(*maps, **ARGUMENTS | {"top_k": None})
    assert torch.equal(panoptic, expected[0])
    assert torch.equal(centers, expected[1])


MAPS = random_maps(8, 10, seed=0)


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"do not fit into torch.uint8"):
        get_panoptic_segmentation(MAPS[0].to(torch.uint8), *MAPS[1:], **ARGUMENTS)


def several():
    sizes = ((30, 34), (20, 24), (8, 9), (40, 30))
    return [
        random_maps(*size, seed=seed, num_centers=3 * seed + 1) for seed, size in enumerate(sizes)
    ]


def test_images_of_several_sizes_at_once():
    images = several()
    images[2][1].zero_()  # no centers
    together = get_panoptic_segmentations(*zip(*images, strict=True), **ARGUMENTS)
    assert len(together) == len(images)
    for maps, (panoptic, centers) in zip(images, together, strict=True):
        expected = reference(*maps, **ARGUMENTS)
        assert torch.equal(panoptic, expected[0])
        assert torch.equal(centers, expected[1])
    assert get_panoptic_segmentations([], [], [], **ARGUMENTS) == []


def test_batched_tensors():
    images = [random_maps(20, 24, seed=seed) for seed in range(3)]
    batch = [torch.stack(maps) for maps in zip(*images, strict=True)]
    for (panoptic, _), maps in zip(
        get_panoptic_segmentations(*batch, **ARGUMENTS), images, strict=True
    ):
        expected = reference(*maps, **ARGUMENTS)
        assert torch.equal(panoptic, expected[0])


class CountWaits(TorchDispatchMode):
    """Count operations whose result a GPU would have to hand to the host."""

    # nonzero and masks as indices need the number of true values; unique and bincount sizes.
    WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select")

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.WAITING or masks:
            self.waits.append(name)
        return func(*args, **kwargs or {})


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Take the branches that avoid waiting, with stand-ins that run on the CPU."""
    from panoptic_dl.postprocess import grouping, panoptic

    def histogram(values, bins):
        ones = torch.ones_like(values, dtype=torch.int64)
        return torch.zeros(bins, dtype=torch.int64).scatter_add_(0, values.long(), ones)

    monkeypatch.setattr(panoptic, "histogram", histogram)
    for module in (grouping, panoptic):
        monkeypatch.setattr(module, "waits", lambda tensor: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("num_images", "top_k", "rounds"), [(1, 200, 2), (4, 200, 2), (1, 5, 3)])
def test_the_host_waits_twice_however_many_instances_and_images(num_images, top_k, rounds):
    images = [random_maps(64, 80, seed=seed, num_centers=30) for seed in range(num_images)]
    expected = [reference(*maps, **ARGUMENTS | {"top_k": top_k}) for maps in images]
    with CountWaits() as count:
        results = get_panoptic_segmentations(
            *zip(*images, strict=True), **ARGUMENTS | {"top_k": top_k}
        )
    # The numbers of one transfer to the host, `tolist`, are one wait each round.
    assert [n for n in count.waits if n != "_local_scalar_dense"] == []
    for (panoptic, centers), (want, want_centers) in zip(results, expected, strict=True):
        assert torch.equal(panoptic, want)
        assert torch.equal(centers, want_centers)
    assert rounds_of(images, top_k) == rounds


def rounds_of(images, top_k):
    """How many transfers to the host `run_all` makes."""
    from panoptic_dl.postprocess import panoptic

    rounds = 0
    original = torch.Tensor.tolist

    def tolist(self):
        nonlocal rounds
        rounds += 1
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", tolist)
        panoptic.get_panoptic_segmentations(
            *zip(*images, strict=True), **ARGUMENTS | {"top_k": top_k}
        )
    return rounds


@pytest.mark.gpu
def test_equal_on_a_gpu_and_two_waits():
    maps = random_maps(260, 300, seed=1, num_centers=90, noise=4.0)
    arguments = ARGUMENTS | {"top_k": 200}
    on_gpu = [m.cuda() for m in maps]
    expected = reference(*on_gpu, **arguments)
    get_panoptic_segmentation(*on_gpu, **arguments)  # tables of classes are copied once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as warned:
            panoptic, centers = get_panoptic_segmentation(*on_gpu, **arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(panoptic, expected[0])
    assert torch.equal(centers, expected[1])
    assert len(warned) <= 2
