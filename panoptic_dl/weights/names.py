"""Names and dtypes of weights: where in a file a network lies, and what lies beside it.

Names are compared exactly: no similarity is measured, and no framework's names are known here.
What wraps a network (`module.`, `state_dict` of a Lightning module, `encoder.`) is the prefix
behind which the network's own names are found.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable

# Lists of what is allowed: torch gains dtypes, and some of them cannot be copied.
REAL_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INTEGER_DTYPES = frozenset((torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8))
KNOWN_DTYPES = REAL_DTYPES | INTEGER_DTYPES | {torch.bool}


def is_compatible(theirs: torch.dtype, own: torch.dtype) -> bool:
    """Whether values of a file's dtype may be loaded into a parameter or buffer of another."""
    if own.is_floating_point:
        return theirs in REAL_DTYPES
    return theirs in (INTEGER_DTYPES if own in INTEGER_DTYPES else {own} & KNOWN_DTYPES)


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors in nested containers with values that are NaN or infinite in float32."""
    if isinstance(state, Tensor):
        if state.dtype in REAL_DTYPES and not state.float().isfinite().all():
            yield name
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for place, value in enumerate(state):
            yield from not_finite(value, f"{name}[{place}]")


BACKBONE = "backbone."
STATISTICS = ("pixel_mean", "pixel_std")
COUNTER = "num_batches_tracked"  # of batch normalization
MAX_DEPTH = 64  # modules in modules that are looked at: a hostile name may have a million


@dataclass(frozen=True)
class Fit:
    """The part of a file that is a network's."""

    prefix: str  # what stands in front of the network's names in the file
    tensors: dict[str, Tensor]  # by the network's names, and unknown ones inside of its layers
    left_out: dict[str, int]  # parts of the file that are none of the network -> number of tensors


def fit(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    prefix: str | None = None,
    whole: bool = False,
) -> Fit:
    """Find a network in a file by the network's own names.

    Args:
        own: the network's state dict; only names and shapes are looked at.
        tensors: the file's, by the names there.
        prefix: where the network lies; None: where most of its names are found.
        whole: what lies behind the prefix is the network and nothing else, so that all that it
            lacks makes the file unfit. Otherwise a classifier or a decoder may lie there, too.

    Raises:
        WeightsError: the file holds two networks of these names, with different values.
    """
    if prefix is None:
        prefix = _find_prefix(own, tensors)
    names = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    _drop_inner_wrappers(own, names)
    there = {*names.values()}
    complete = all(name in there or name.endswith(COUNTER) for name in own)
    found = [_modules(name) for name, ours in names.items() if ours in own]
    layers = {above[-1] for above in found if above} - {prefix.removesuffix(".")}
    modules = {module for above in found for module in above}
    fitting: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    for name, tensor in tensors.items():
        above = [*_modules(name), name]
        inner = list(takewhile(modules.__contains__, above))
        parent = inner[-1] if inner else ""
        ours = names.get(name, "")
        # What is numbered is there several times, and each time it belongs to the network:
        # `layer1.0.se`, `layer3.22` are of another network, `stem.fc`, `layer5`, `head` beside it.
        is_part = parent in layers or any(map(str.isdigit, parent[len(prefix) :]))
        if ours in own or (
            name in names and ours not in STATISTICS and (whole or not complete or is_part)
        ):
            fitting[ours] = tensor
        else:
            left_out[above[min(len(inner), len(above) - 1)]] += 1
    return Fit(prefix, fitting, dict(left_out))


def find_statistics(tensors: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    """`pixel_mean` and `pixel_std` among a file's tensors: Detectron2 saved them until 2020."""
    return {
        leaf: tuple(float(value) for value in tensor.flatten()[:16])
        for name, tensor in tensors.items()
        if (leaf := name.rpartition(".")[2]) in STATISTICS and tensor.dtype in KNOWN_DTYPES
    }


def _modules(name: str) -> list[str]:
    """The modules around a tensor, from the outermost: `a`, `a.b` of `a.b.weight`."""
    return list(accumulate(name.split(".", MAX_DEPTH)[:-1], "{}.{}".format))


def _find_prefix(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What stands in front of most of a network's names; nothing where few are found."""
    depth = max((name.count(".") for name in own), default=0) + 1
    found: dict[str, dict[str, Tensor]] = {}  # prefix -> tensors of the network's shapes, by name
    named: Counter[str] = Counter()
    for name, tensor in tensors.items():
        parts = name.rsplit(".", depth)[-depth:]
        for place in range(len(parts)):
            ours = ".".join(parts[place:])
            prefix = name[: len(name) - len(ours)]
            if ours in own and not ours.endswith(COUNTER) and prefix.count(".") < MAX_DEPTH:
                named[prefix] += 1
                if own[ours].shape == tensor.shape:
                    found.setdefault(prefix, {})[ours] = tensor
    best = max(named, key=lambda prefix: (len(found.get(prefix, ())), named[prefix]), default="")
    if 2 * named[best] < min(len(own), len(tensors)):
        return ""
    networks = [p for p in found if len(found[p]) == sum(not n.endswith(COUNTER) for n in own)]
    for other in networks[1:]:
        if not all(_equal(tensor, found[other][n]) for n, tensor in found[networks[0]].items()):
            raise WeightsError(
                f"two networks of these names are in it, behind '{printable(networks[0])}' and "
                f"'{printable(other)}': take one out with scripts/convert_weights.py --prefix"
            )
    return best


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.dtype in KNOWN_DTYPES and torch.equal(one, other)


def _drop_inner_wrappers(own: Container[str], names: dict[str, str]) -> None:
    """Take away, in place, a word that wraps a part of the network: `backbone.module.conv1`."""
    there = {*names.values()}
    without: defaultdict[str, dict[str, str]] = defaultdict(dict)  # word -> our name -> the file's
    for name, ours in names.items():
        parts = ours.split(".", MAX_DEPTH)
        for place in range(len(parts) - 1 if ours not in own else 0):
            plain = ".".join(parts[:place] + parts[place + 1 :])
            if plain in own and plain not in there:
                without[parts[place]].setdefault(plain, name)
    for plain, name in max(without.values(), key=len, default={}).items():
        names[name] = plain
