"""What the demo is told: `conf/demo/default.yaml`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .drawing import BRANCHES, Style, check_views
from .errors import DemoError

LAYOUTS = {
    "overlay": ("overlay",),
    "side_by_side": ("side_by_side",),
    "both": ("overlay", "side_by_side"),
}
FORMATS = ("jpg", "png")
MOST_WORKERS = 8


@dataclass(frozen=True)
class DemoSettings:
    """The fields are the keys of `demo`; see the file for what they mean."""

    views: str | Sequence[str] | None = None
    layout: str = "overlay"
    format: str = "jpg"
    save: str | None = None
    legend: bool = True
    labels: bool = True
    opacity: float = 0.55
    maps: str = "network"
    precision: str = "fp32"
    batch_size: int = 1
    num_workers: int | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for key, value, known in (
            ("layout", self.layout, tuple(LAYOUTS)),
            ("format", self.format, FORMATS),
            ("save", self.save, (None, "json")),
        ):
            if value not in known:
                options = ", ".join("null" if k is None else k for k in known)
                raise DemoError(f"demo.{key}={value} is unknown; choose {options}")
        for key, number in (
            ("batch_size", self.batch_size),
            ("num_workers", self.num_workers),
            ("max_frames", self.max_frames),
        ):
            if number is not None and (type(number) is not int or number < 1):
                raise DemoError(f"demo.{key}={number} must be a whole number, at least 1")
        if not 0 <= self.opacity <= 1:
            raise DemoError(f"demo.opacity={self.opacity} must be within 0..1")

    def views_of(self, *, panoptic: bool) -> list[str]:
        """The views that are drawn, of a model of either task.

        Raises:
            DemoError: one is unknown, or the model has not got it, nor panoptic files.
        """
        views = self.views
        if views is None:
            views = "panoptic" if panoptic else "semantic"
        chosen = [views] if isinstance(views, str) else list(views)
        try:
            check_views(chosen, panoptic=panoptic)
        except DemoError as error:
            raise DemoError(f"demo.views: {error}") from None
        if self.save and not panoptic:
            raise DemoError("demo.save=json writes panoptic files, which task=semantic has none of")
        return chosen

    def needs_branches(self, views: Sequence[str]) -> bool:
        return bool(set(views) & set(BRANCHES))

    @property
    def layouts(self) -> tuple[str, ...]:
        return LAYOUTS[self.layout]

    @property
    def style(self) -> Style:
        return Style(legend=self.legend, labels=self.labels, opacity=self.opacity)

    @property
    def workers(self) -> int:
        """Threads that read, and as many that draw and write."""
        return self.num_workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
