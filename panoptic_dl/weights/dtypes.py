"""Which kinds of numbers weights may be: those that torch copies into any parameter."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Lists of what is allowed: torch gains kinds of numbers, and some of them cannot be copied.
REAL = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
WHOLE = frozenset((torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8))
KNOWN = REAL | WHOLE | {torch.bool}


def stands_for(theirs: torch.dtype, own: torch.dtype) -> bool:
    """Whether numbers of a file's kind may be loaded into a parameter or buffer of another."""
    if own.is_floating_point:
        return theirs in REAL
    return theirs in (WHOLE if own in WHOLE else {own} & KNOWN)


def not_finite(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """The tensors among `names` that hold NaN or infinity, or will once they are 32-bit."""
    return [
        name
        for name in names
        if tensors[name].dtype in REAL and not bool(tensors[name].float().isfinite().all())
    ]
