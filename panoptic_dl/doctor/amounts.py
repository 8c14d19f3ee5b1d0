"""Bytes in words."""

GIB = 2**30


def amount(number: float) -> str:
    """As people say it: "1.5 GiB", "20 MiB"."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"
