"""Two processes on one machine share the statistics of synchronized batch normalization."""

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from panoptic_dl.models.batch_norm import NaiveSyncBatchNorm
from tests.models.tiny_models import (
    build_backbone,
    build_panoptic,
    make_sample,
    require_same,
    train_both,
)


def pooled(rank: int) -> torch.Tensor:
    """A process's half of a batch of two images of one pixel."""
    return torch.tensor([1.0, 2.0, -3.0]).reshape(1, 3, 1, 1) * (rank + 1)


def train(rank: int, folder: str) -> None:
    """One of two processes: its half of a batch, then training with recomputed activations."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    torch.manual_seed(0)
    model = build_panoptic().train()
    sum(model([make_sample(64, 64, seed=rank)]).values()).backward()
    results = {
        "classes": {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__},
        "running_mean": model.backbone.bn1.running_mean,
        "gradient": model.backbone.conv1.weight.grad,
    }
    layer = NaiveSyncBatchNorm(3)
    layer(pooled(rank))
    results["buffers"] = dict(layer.named_buffers())

    def build() -> nn.Module:
        torch.manual_seed(0)
        return build_panoptic(build_backbone("hrnet", "SyncBN"))

    plain, changed, _, _ = train_both(build, seed=rank)
    require_same(plain, changed)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of both processes, when neither has failed."""
    folder = tmp_path_factory.mktemp("results")
    torch.multiprocessing.start_processes(train, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_cpu_processes_share_their_statistics(results):
    torch.manual_seed(0)
    alone = build_panoptic().train()
    alone([make_sample(64, 64, seed=0), make_sample(64, 64, seed=1)])
    for result in results:
        assert result["classes"] == {NaiveSyncBatchNorm.__name__}
        torch.testing.assert_close(result["running_mean"], alone.backbone.bn1.running_mean)
        assert result["gradient"].isfinite().all()


def test_buffers_are_those_of_one_process(results):
    alone = nn.BatchNorm2d(3)
    alone(torch.cat([pooled(0), pooled(1)]))
    for result in results:
        torch.testing.assert_close(result["buffers"], dict(alone.named_buffers()))


def test_statistics_are_updated_once_with_recomputed_activations(results):
    assert len(results) == 2  # `require_same` has passed in both
