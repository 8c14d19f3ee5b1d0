"""Precisions; and what "float32" means on a GPU.

There PyTorch itself lets convolutions round their inputs to TF32.
"""

import contextlib
from collections.abc import Iterator

import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def check_precision(key: str, precision: str, device: torch.device) -> None:
    """Raise ValueError for a precision that is unknown, or that the device does not have.

    Args:
        key: of the config, for the message.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{key}={precision} is unknown; choose {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision in ("tf32", "fp16"):
        raise ValueError(f"{key}={precision} needs a GPU; on the CPU choose fp32 or bf16")


@contextlib.contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions inside round their inputs to 10 bits of mantissa, or not.

    Settings of the process are as before afterwards, also after an error: the next job of a sweep
    must not inherit them.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
