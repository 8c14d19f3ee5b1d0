"""Where Detectron2's function raises or fails: a sensible result, or an error that says what to do.

Also batches, and how often a GPU would be waited for.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_dl.postprocess import get_panoptic_segmentation, get_panoptic_segmentations
from tests.postprocess.reference import ARGUMENTS, random_maps, reference


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nms_kernel": 4}, "nms_kernel=4 must be odd"),
        ({"nms_kernel": 0}, "nms_kernel=0 must be odd"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"sem_seg": MAPS[0][0]}, r"sem_seg has shape \(8, 10\)"),
        ({"sem_seg": MAPS[0].float()}, "expected integer category ids"),
        ({"sem_seg": MAPS[0][:, :0]}, "sem_seg has shape"),
        ({"sem_seg": MAPS[0].to(torch.uint8)}, "do not fit into torch.uint8"),
        ({"center_heatmap": MAPS[1][:, :5]}, r"center_heatmap .* of shape \(1, 8, 10\)"),
        ({"center_heatmap": MAPS[1].long()}, "center_heatmap is torch.int64"),
        ({"offsets": MAPS[1]}, r"offsets .* of shape \(2, 8, 10\)"),
        ({"foreground_mask": MAPS[0][0]}, "foreground_mask has shape"),
        ({"foreground_mask": MAPS[0]}, "foreground_mask must hold 0 and 1 only"),
    ],
)
def test_bad_input_is_named(changes, message):
    maps = dict(zip(("sem_seg", "center_heatmap", "offsets"), MAPS, strict=True))
    with pytest.raises(ValueError, match=message):
        get_panoptic_segmentation(**maps | ARGUMENTS | changes)


def test_even_windows_raise_in_detectron2_too():
    with pytest.raises((RuntimeError, IndexError)):
        reference(*MAPS, **ARGUMENTS | {"nms_kernel": 4})


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
    masks = torch.stack([torch.ones(1, 20, 24)] * 3)
    batch = [torch.stack(maps) for maps in zip(*images, strict=True)]
    for (panoptic, _), maps in zip(
        get_panoptic_segmentations(*batch, **ARGUMENTS, foreground_masks=masks), images, strict=True
    ):
        expected = reference(*maps, **ARGUMENTS, foreground_mask=masks[0])
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
        return torch.zeros(bins, dtype=torch.int64).scatter_add_(0, values, torch.ones_like(values))

    def settle_ties(points, centers, nearest, tie):
        return torch.where(tie, grouping._nearest_by_reference(points, centers), nearest)

    monkeypatch.setattr(panoptic, "histogram", histogram)
    monkeypatch.setattr(grouping, "_settle_ties", settle_ties)


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
