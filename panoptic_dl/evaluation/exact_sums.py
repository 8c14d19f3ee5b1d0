"""Sums of floats that do not depend on their order, and so not on the number of processes.

A float is kept as three integers of 30 bits each, with 2^-60 as the unit of the last: integers are
summed without rounding, and only the total becomes a float again.
"""

import numpy as np

PARTS = 3
BITS = 30  # a part; a sum of 2^33 parts still fits 64 bits


def split(values: np.ndarray) -> np.ndarray:
    """Turn floats (N,) from [0, 2^30) into integers (N, 3) int64, rounding down to 2^-60."""
    values = np.asarray(values, dtype=np.float64)
    assert np.all((values >= 0) & (values < 2.0**BITS)), "outside what the parts can hold"
    parts = np.empty((*values.shape, PARTS), dtype=np.int64)
    for index in range(PARTS):
        whole = np.floor(values)
        parts[..., index] = whole
        values = (values - whole) * 2.0**BITS  # both operations are exact
    return parts


def join(parts: np.ndarray) -> np.ndarray:
    """Turn sums of parts (N, 3) int64 into the floats (N,) nearest to the totals."""
    totals = [
        ((int(high) << 2 * BITS) + (int(middle) << BITS) + int(low)) / (1 << 2 * BITS)
        for high, middle, low in parts.tolist()
    ]
    return np.array(totals, dtype=np.float64)
