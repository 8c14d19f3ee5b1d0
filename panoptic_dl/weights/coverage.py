"""How a file's tensors and a network's parameters agree, name by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .dtypes import stands_for
from .printable import printable

SHOWN = 4


@dataclass(frozen=True)
class Coverage:
    """Names of a network's parameters and buffers held against those of a file.

    Batch counters (`num_batches_tracked`) are bookkeeping that no figure depends on: files from
    before torch 0.4.1 have none, frozen layers want none. They are counted, never at fault.
    """

    matched: tuple[str, ...]  # in both, of one shape
    missing: tuple[str, ...]  # the file lacks them
    unexpected: tuple[str, ...]  # the network lacks them
    mismatched: tuple[str, ...]  # "name (shape in the file) for (shape in the network)"
    dropped: dict[str, int]  # parts that are left out on purpose: name -> number of tensors
    counters_missing: int
    counters_unexpected: int
    numbers_matched: int  # values of all matched tensors, counters aside
    numbers_wanted: int  # values of all tensors that the network has, counters aside

    @property
    def percent(self) -> float:
        """Share of the network's values (parameters and running statistics) that the file has."""
        return 100 * self.numbers_matched / self.numbers_wanted if self.numbers_wanted else 100.0

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """What makes the file unfit, by kind; empty where it fits."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.mismatched,
        }
        return {kind: names for kind, names in kinds.items() if names}

    def lines(self, shown: int = SHOWN) -> list[str]:
        """The report, a fact a line; at most `shown` names of a kind."""
        lines = [f"{len(self.matched)} matched: {self.percent:.2f} % of the values"]
        lines += [
            f"{len(names)} {kind}: {_first(names, shown)}" for kind, names in self.faults.items()
        ]
        lines += [
            f"dropped: {printable(part)} ({count} tensors)" for part, count in self.dropped.items()
        ]
        if self.counters_missing:
            lines.append(f"{self.counters_missing} batch counters missing: they stay at 0")
        if self.counters_unexpected:
            lines.append(f"{self.counters_unexpected} batch counters that nothing counts: ignored")
        return lines


def compare(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    dropped: Mapping[str, int] | None = None,
) -> Coverage:
    """Hold a file's `tensors` against the state dict `wanted`; nothing is changed.

    A tensor of whole numbers in the place of real ones, or the reverse, is a mismatch like a wrong
    shape; so is one of numbers that torch may not be able to copy, which would fail half-way.
    """
    matched, mismatched, numbers = [], [], 0
    for name, own in wanted.items():
        if name not in tensors:
            continue
        other = tensors[name]
        if other.shape != own.shape:
            mismatched.append(f"{name} {tuple(other.shape)[:8]} for {tuple(own.shape)}")
        elif not stands_for(other.dtype, own.dtype):
            mismatched.append(f"{name} {other.dtype} for {own.dtype}")
        elif not is_counter(name):
            matched.append(name)
            numbers += own.numel()
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    return Coverage(
        matched=tuple(matched),
        missing=tuple(name for name in missing if not is_counter(name)),
        unexpected=tuple(name for name in unexpected if not is_counter(name)),
        mismatched=tuple(mismatched),
        dropped=dict(dropped or {}),
        counters_missing=sum(map(is_counter, missing)),
        counters_unexpected=sum(map(is_counter, unexpected)),
        numbers_matched=numbers,
        numbers_wanted=sum(math.prod(v.shape) for n, v in wanted.items() if not is_counter(n)),
    )


def is_counter(name: str) -> bool:
    """Whether a name is that of a batch counter."""
    return name.endswith("num_batches_tracked")


def _first(names: tuple[str, ...], shown: int) -> str:
    return ", ".join(map(printable, names[:shown])) + (", ..." if len(names) > shown else "")
