"""What "float32" means on a GPU: PyTorch itself lets convolutions round their inputs to TF32."""

import contextlib
from collections.abc import Iterator

import torch


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
