"""The training step: precision, accumulation, clipping, overfitting."""

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from tests.train.tiny_run import TinyModel, metrics, run_training, state, tiny_loader

UNGROUPED = {"aspect_ratio_grouping": False}


def test_bf16_trains_on_the_cpu(tmp_path):
    run_training(tmp_path / "full", iterations=80)
    run_training(tmp_path / "half", iterations=80, precision="bf16")
    full, half = ([x["total_loss"] for x in metrics(tmp_path / d)] for d in ("full", "half"))
    assert sum(full[-5:]) < 0.4 * sum(full[:5])
    assert half != full
    assert sum(half[-20:]) == pytest.approx(sum(full[-20:]), rel=0.3)


class Plain(TinyModel):
    """Without batch statistics and dropout, where accumulation is exact."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 8)


def test_accumulated_micro_batches_train_like_the_whole_batch(tmp_path):
    """No image in common is needed: the order makes groups of 8, or of 4 in another order."""
    run_training(tmp_path / "whole", model=Plain(), loader=tiny_loader(**UNGROUPED))
    parts = tiny_loader(**UNGROUPED, accumulate=4)
    run_training(tmp_path / "parts", model=Plain(), loader=parts)
    whole, parts = ([x["total_loss"] for x in metrics(tmp_path / d)] for d in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-5)
    weights = state(tmp_path / "whole")["model"], state(tmp_path / "parts")["model"]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_to_the_norm(tmp_path):
    """SGD at rate 1 moves the weights by the gradient: by the norm that it was shrunk to."""
    options = {
        "iterations": 1,
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
        "schedule": lambda optimizer: WarmupPolyLR(optimizer, max_iters=1, warmup_iters=0),
        "eval_at_end": False,
    }
    for clip, expected in ((1e-3, 1e-3), (1e9, None)):
        before = Plain().state_dict()
        run_training(tmp_path / str(clip), model=Plain(), clip_norm=clip, **options)
        after = state(tmp_path / str(clip))["model"]
        moved = sum(float((after[n] - before[n]).double().square().sum()) for n in before) ** 0.5
        norm = metrics(tmp_path / str(clip))[0]["grad_norm"]
        assert norm > 1
        assert moved == pytest.approx(expected or norm, rel=1e-3)


def test_overfit_batches_repeat(tmp_path):
    class Watching(Plain):
        def forward(self, batch):
            seen.append(torch.stack([s["numbers"] for s in batch]))
            return super().forward(batch)

    seen = []
    run_training(tmp_path, model=Watching(), overfit_batches=2)
    assert all(torch.equal(seen[i], seen[i % 2]) for i in range(6))
    assert not torch.equal(seen[0], seen[1])
