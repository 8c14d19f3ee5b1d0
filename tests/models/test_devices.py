"""Where tensors are and what the host waits for, on a GPU that need not be there.

Tensors have no data here (`fake_devices`); PyTorch still refuses operators that mix devices.
"""

import pytest
import torch

from panoptic_dl.doctor.memory import _sample as sample
from tests.models import golden_rows, tiny_models
from tests.models.fake_devices import fake_gpu

SMALLEST = "cityscapes_panoptic_xception65_conv"
ROWS = [
    pytest.param(row, marks=() if row == SMALLEST else pytest.mark.slow) for row in golden_rows.ROWS
]
# As docs/explanation/speed.md says: two for the panoptic map, three for the instances.
WAITS = {"panoptic": {"tolist": 3, "nonzero": 1, "unique": 1}, "semantic": {}}


@pytest.fixture(params=[None, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def half(request):
    """Autocast of a GPU, which would switch itself off without one."""
    if request.param is None:
        yield
        return
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", request.param)
    yield request.param
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", torch.float16)


def on_gpu(value):
    """All tensors of an output, which are on the GPU."""
    if isinstance(value, dict):
        return [tensor for each in value.values() for tensor in on_gpu(each)]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in on_gpu(each)]
    if hasattr(value, "get_fields"):
        return on_gpu(value.get_fields())
    tensor = getattr(value, "tensor", value)
    if not isinstance(tensor, torch.Tensor):
        return []
    assert tensor.device.type == "cuda"
    return [tensor]


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("row", ROWS)
def test_rows_stay_on_the_gpu_and_wait_as_documented(row):
    dataset, task, *_ = row.split("_")
    with fake_gpu() as count:
        with torch.device("cuda"):
            model = golden_rows.build_model(row).train()
        for clear in (count.waits, count.copies):
            clear.clear()
        losses = model([sample(*golden_rows.CROP[dataset])] * 2)
        assert all(loss.dtype == torch.float32 for loss in on_gpu(losses))
        assert len(losses) == (3 if task == "panoptic" else 1)
        assert not count.waits
        # Images and targets, nothing else: they are pinned and copied ahead by the loader.
        assert sum(count.copies.values()) == 2 * (
            len(sample(1, 1)) - 2 if task == "panoptic" else 2
        )

        model.eval()
        count.copies.clear()
        with torch.no_grad():
            for size in ((1024, 2048), (512, 1024)):  # as it is, and resized
                count.waits.clear()
                image = sample(*size) | {"height": 1024, "width": 2048}
                (output,) = model([image])
                assert dict(count.waits) == WAITS[task]
                found = {tuple(t.shape)[-2:]: t.dtype for t in on_gpu(output)}
                assert found[1024, 2048] in (torch.float32, torch.int64, torch.bool)
                assert all(t.dtype not in (torch.bfloat16, torch.float16) for t in on_gpu(output))


@pytest.mark.parametrize("loss", ["hard_pixel_mining", "cross_entropy", "focal", "dice"])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_loss_makes_the_host_wait(loss, weighted):
    weights = [1.0] * tiny_models.NUM_CLASSES if weighted else None
    with fake_gpu() as count:
        with torch.device("cuda"):
            model = tiny_models.build_semantic(loss_type=loss, class_weights=weights).train()
        count.waits.clear()
        on_gpu(model([sample(64, 96), sample(64, 64)]))
        assert not count.waits


def test_a_wait_is_noticed():
    with fake_gpu() as count:
        values = torch.empty(5, device="cuda")
        if values.sum() > 0:
            values = values[values.nonzero().flatten()]
        assert values.cpu().numel() == 0
        assert values.tolist() == []  # of which nothing is copied
        assert dict(count.waits) == {"item": 1, "nonzero": 1, "copy": 1}
