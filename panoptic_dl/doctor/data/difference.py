"""Where two labels that should be one differ."""

import numpy as np

from .report import ImageReport


def add_difference(
    file: str, label: np.ndarray, what: str, expected: np.ndarray, report: ImageReport
) -> None:
    """Note pixels of `label`, (H, W), that are not as `what` has them, (H, W) as well."""
    different = label != expected
    if different.any():
        y, x = np.argwhere(different)[0]
        report.add(
            "agreement",
            f"{file}: {int(different.sum())} pixels differ from what {what}, such as "
            f"{label[y, x]} in place of {expected[y, x]} at x={x}, y={y}",
        )
