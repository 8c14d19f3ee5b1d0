"""The best and the worst of many, with memory for these alone.

All are in one order, by quality and then by a number of their own, so that ties are settled, and
nothing can be among the worst and the best at once.
"""

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Kept = TypeVar("Kept")
Key = tuple[float, int]  # quality, number of the image


class Extremes(Generic[Kept]):
    """What was offered with the `count` lowest and the `count` highest keys so far.

    Attributes:
        keys: of what is kept, from the worst to the best; at most 2 * count.
        kept: what belongs to each key.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.keys: list[Key] = []
        self.kept: dict[Key, Kept] = {}

    def offer(self, key: Key, make: Callable[[], Kept]) -> None:
        """Keep what `make` returns if the key is among the extremes; a quality of NaN never is."""
        if math.isnan(key[0]):
            return
        position = bisect(self.keys, key)
        if len(self.keys) == 2 * self.count:
            if position == self.count:
                return  # between the worst and the best
            # The one next to the middle on the key's side makes room.
            del self.kept[self.keys.pop(self.count - (position < self.count))]
            position = bisect(self.keys, key)
        self.keys.insert(position, key)
        self.kept[key] = make()


def choose(keys: Sequence[Key], count: int) -> tuple[list[Key], list[Key]]:
    """The `count` worst, the very worst first, and the `count` best, the very best first.

    Of fewer than 2 * count keys half are the worst (of an odd number, the larger half).
    """
    ordered = sorted(keys)
    num_worst = min(count, (len(ordered) + 1) // 2)
    num_best = min(count, len(ordered) - num_worst)
    return ordered[:num_worst], ordered[::-1][:num_best]
