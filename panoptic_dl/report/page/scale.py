"""Axes of charts: round ticks, and where values lie between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps values `low`..`high` to pixels `start`..`end`, in proportion."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def limits(values: Sequence[float], room: float = 0.04) -> tuple[float, float]:
    """The least and the greatest with a little room, never the same; (0, 1) without values."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    space = (high - low) * room or abs(high) * 0.1 or 1.0
    return low - space, high + space


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within the limits: multiples of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return []
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((f * power for f in (1, 2, 5) if f * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """ "0", "0.25", "20k", "1.5M", "1e-5": as short as it can be."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 9.9e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"
