"""The memory of a step as the doctor counts it, against steps that are made."""

import copy

import pytest
import torch
from torch._subclasses import FakeTensorMode

from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.doctor.context import CheckContext
from panoptic_dl.doctor.memory import LiveBytes, estimate_step
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.train.precision import autocast
from tests.models import golden_rows, tiny_models
from tests.models.test_devices import SMALLEST, sample

OPTIONS = [("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True)]
ROWS = [
    pytest.param(
        row,
        *option,
        marks=() if (row, option) == (SMALLEST, OPTIONS[-1]) else pytest.mark.slow,
    )
    for row in golden_rows.ROWS
    for option in OPTIONS
]


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False)


def estimate(model, crop, images, precision, recompute):
    train = {
        "activation_checkpointing": recompute,
        "precision": precision,
        "ema": None,
        "batch_size": images,
        "images_per_gpu": None,
        "accumulate": None,
    }
    context = CheckContext(
        device="cpu",
        parts={"model": lambda: model, "optimizer": lambda: adam},
        choice={},
        sizes={"crop_size": crop},
        train=train,
        checkpoint={},
        recipe={},
        settings=DoctorSettings(),
        run_dir="",
    )
    fixed, per_image = estimate_step(context)
    return fixed + images * per_image


def made(model, batch, precision, recompute):
    """The peak of the second step, which the optimizer's state is there in."""
    with LiveBytes() as live:
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        if recompute:
            recompute_activations(model.backbone)
        optimizer = adam(model)
        for _ in range(2):
            live.peak = live.now
            optimizer.zero_grad()
            with autocast(precision, torch.device("cpu")):
                loss = sum(model(batch()).values())
            loss.backward()
            del loss
            optimizer.step()
    return live.peak


@pytest.mark.parametrize(
    ("precision", "recompute"),  # bf16 takes long on CPUs without it
    [pytest.param(*o, marks=pytest.mark.slow if o[0] == "bf16" else ()) for o in OPTIONS],
)
def test_a_real_step_takes_what_is_estimated(precision, recompute):
    backbone = tiny_models.build_backbone("xception", "BN")
    model = tiny_models.build_panoptic(backbone, head={"norm": "BN"}).train()
    expected = estimate(model, (128, 256), 2, precision, recompute)
    assert all(p.grad is None and type(p) is torch.nn.Parameter for p in model.parameters())
    torch.manual_seed(0)
    taken = made(
        copy.deepcopy(model),
        lambda: [tiny_models.make_sample(128, 256, seed) for seed in (0, 1)],
        precision,
        recompute,
    )
    assert expected == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize(("row", "precision", "recompute"), ROWS)
def test_steps_of_rows_take_what_is_estimated_and_use_all_parameters(row, precision, recompute):
    crop = golden_rows.CROP[row.partition("_")[0]]
    with FakeTensorMode():
        model = golden_rows.build_model(row).train()
        taken = made(model, lambda: [sample(*crop)] * 2, precision, recompute)
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.device("meta"):
        model = golden_rows.build_model(row)
    model.to_empty(device="cpu")
    assert estimate(model, crop, 2, precision, recompute) == pytest.approx(taken, rel=0.1)


def test_a_model_that_reads_its_tensors_is_estimated_all_the_same():
    class Asking(torch.nn.Linear):
        def forward(self, batch):
            x = torch.stack([each["image"].float() for each in batch])
            return {"loss": super().forward(x).mean() if x.sum() > 0 else x.sum()}

    assert estimate(Asking(16, 16), (8, 16), 2, "fp32", False) > 2 * 3 * 8 * 16 * 4
