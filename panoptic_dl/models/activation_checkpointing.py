"""Train with less memory: forget activations inside a backbone's blocks, compute them again later.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", through `torch.utils.checkpoint`.
Losses, gradients and running statistics are those of ordinary training, bit for bit where the
device computes the same twice.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(backbone: nn.Module) -> int:
    """Let every block that `backbone.recomputable_blocks` lists keep only its input; their number.

    The contract of that property: a list of modules below the backbone, none inside another, each
    called once in a forward pass, which do not write to their input. Names of parameters and
    buffers stay as they are. Call it once, before anything wraps the model.

    Raises ValueError: the backbone lists none.
    """
    blocks: list[nn.Module] = list(getattr(backbone, "recomputable_blocks", ()))
    if not blocks:
        raise ValueError(
            f"train.activation_checkpointing=true needs to know the blocks of a backbone: give "
            f"{type(backbone).__name__} a property `recomputable_blocks` that lists its stages or "
            "residual blocks (modules), or leave it false"
        )
    for block in blocks:
        _wrap(block)
    return len(blocks)


def _wrap(block: nn.Module) -> None:
    forward: Callable[..., Any] = block.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _buffers_unchanged(block)

    def recomputed(*inputs: Any, **options: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        if torch.compiler.is_compiling():  # traced, buffers are updated once
            return checkpoint(forward, *inputs, use_reentrant=False, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)

    block.forward = recomputed  # a module finds it before that of its class


@contextmanager
def _buffers_unchanged(block: nn.Module) -> Iterator[None]:
    """What is written to buffers inside goes to copies, so that statistics are updated once."""
    kept = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
