"""Processes on one machine share the statistics of synchronized batch normalization."""

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from panoptic_dl.models import batch_norm
from panoptic_dl.models.batch_norm import SyncBatchNorm
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
    layer = SyncBatchNorm(3)
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
        assert result["classes"] == {SyncBatchNorm.__name__}
        torch.testing.assert_close(result["running_mean"], alone.backbone.bn1.running_mean)
        assert result["gradient"].isfinite().all()


def test_buffers_are_those_of_one_process(results):
    alone = nn.BatchNorm2d(3)
    alone(torch.cat([pooled(0), pooled(1)]))
    for result in results:
        torch.testing.assert_close(result["buffers"], dict(alone.named_buffers()))


def test_statistics_are_updated_once_with_recomputed_activations(results):
    assert len(results) == 2  # `require_same` has passed in both


class Kernels:
    """What the operators of PyTorch that `nn.SyncBatchNorm` calls on GPUs compute."""

    @staticmethod
    def batch_norm_stats(x, eps):
        var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        return mean, (var + eps).rsqrt()

    @staticmethod
    def batch_norm_gather_stats_with_counts(x, means, invstds, mean, var, momentum, eps, counts):
        total = counts.sum()
        own = (counts[:, None] * means).sum(0) / total
        squares = invstds**-2 - eps + (means - own) ** 2
        biased = (counts[:, None] * squares).sum(0) / total
        mean.copy_((1 - momentum) * mean + momentum * own)
        var.copy_((1 - momentum) * var + momentum * biased * total / (total - 1))
        return own, (biased + eps).rsqrt()

    @staticmethod
    def batch_norm_elemt(x, weight, bias, mean, invstd, eps):
        weight, bias, mean, invstd = (v[:, None, None] for v in (weight, bias, mean, invstd))
        return ((x - mean) * invstd * weight + bias).to(x.dtype)

    @staticmethod
    def batch_norm_backward_reduce(grad, x, mean, invstd, weight, *wanted):
        assert wanted == (True, True, True)
        assert grad.stride() == x.stride()
        total = grad.float().sum((0, 2, 3))
        product = (grad * (x - mean[:, None, None])).sum((0, 2, 3))
        return total, product, product * invstd, total

    @staticmethod
    def batch_norm_backward_elemt(grad, x, mean, invstd, weight, total, product, counts):
        assert counts.dtype == torch.int32
        mean, invstd, weight, total, product = (
            v[:, None, None] for v in (mean, invstd, weight, total, product)
        )
        slope = (x - mean) * invstd**2 * product / counts.sum()
        return ((grad - total / counts.sum() - slope) * invstd * weight).to(x.dtype)


NORMALIZATIONS = [
    (compiled, dtype, kernels)
    for compiled in (False, True)
    for dtype in (torch.float32, torch.bfloat16)[: 1 if compiled else 2]
    for kernels in (False, True)
]


def parts(world: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each process: a batch, of another size than those of others, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, n, 5, 6, 7, generator=generator) for n in (2, 1, 3)[:world]]
    return [(3 * x + 20, gradient) for x, gradient in drawn]


def layer(kind: type[nn.Module]) -> nn.Module:
    made = kind(5, eps=1e-3, momentum=0.2)
    made.weight.data, made.bias.data = torch.arange(5.0) + 0.5, torch.arange(5.0)
    return made


def results_of(norm, function, x, gradient):
    x = x.clone().requires_grad_()
    output = function(x)
    output.backward(gradient)
    return {
        "output": output.detach(),
        "gradient": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "buffers": dict(norm.named_buffers()),
    }


def normalize(rank: int, world: int, folder: str) -> None:
    """One process's part of every one of `NORMALIZATIONS`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    found = []
    for compiled, dtype, kernels in NORMALIZATIONS:
        with pytest.MonkeyPatch.context() as patch:
            if kernels:
                patch.setattr(batch_norm, "_has_kernels", lambda x: True)
                for name in (name for name in vars(Kernels) if name.startswith("batch_norm")):
                    patch.setattr(torch, name, getattr(Kernels, name))
            norm = layer(SyncBatchNorm)
            function = norm
            if compiled:
                function = torch.compile(norm, backend="aot_eager", fullgraph=True)
            x, gradient = (each.to(dtype) for each in parts(world)[rank])
            x = x.to(memory_format=torch.channels_last)
            found.append(results_of(norm, function, x, gradient))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_statistics_of_uneven_batches_are_those_of_one_process(tmp_path, world):
    torch.multiprocessing.start_processes(
        normalize, args=(world, str(tmp_path)), nprocs=world, start_method="fork"
    )
    processes = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for index, (_, dtype, _) in enumerate(NORMALIZATIONS):
        norm = layer(nn.BatchNorm2d)
        x, gradient = (torch.cat(each).to(dtype) for each in zip(*parts(world), strict=True))
        alone = results_of(norm, norm, x, gradient)
        found = [process[index] for process in processes]
        near = {"rtol": 1e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
        for name in ("output", "gradient"):
            joined = torch.cat([each[name] for each in found])
            torch.testing.assert_close(joined, alone[name], **near)
        for name in ("weight", "bias"):
            total = sum(each[name] for each in found)
            torch.testing.assert_close(total, alone[name], rtol=1e-4, atol=1e-4)
        for each in found:
            torch.testing.assert_close(each["buffers"], alone["buffers"])
