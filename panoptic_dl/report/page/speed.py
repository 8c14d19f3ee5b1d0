"""Speed and memory of rows: what benchmarks measured, and what training took."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from panoptic_dl.report.runs.curves import Curves
from panoptic_dl.report.runs.fields import Fields, read_json
from panoptic_dl.report.runs.run import Run, Unreadable
from panoptic_dl.report.tables.build import Line, Table

from .charts import Dot, scatter_chart
from .learning import runs_of


@dataclass(frozen=True)
class Benchmark:
    """What mode=benchmark measured of a row."""

    row: str
    machine: str
    size: str  # of images, in pixels
    images_per_s: float
    device_MiB: float  # NaN on the CPU
    host_MiB: float


@dataclass(frozen=True)
class Cost:
    """What a run took; NaN where it is not known."""

    run: str
    device: str
    images_per_s: float
    device_MiB: float
    host_MiB: float
    wall_seconds: float
    device_hours: float


@dataclass(frozen=True)
class Speed:
    """The cost and the benchmarks of one table's runs."""

    title: str
    costs: Sequence[Cost]
    benchmarks: Sequence[Benchmark]
    charts: Sequence[tuple[str, Markup]]


def read_benchmarks(runs: Sequence[Run]) -> tuple[list[Benchmark], list[Unreadable]]:
    """Of all runs of mode=benchmark that have finished."""
    found, unreadable = [], []
    for run in runs:
        if run.mode == "benchmark" and run.finished:
            try:
                found.append(_read(run.folder / "benchmark.json", run.row))
            except (ValueError, OSError) as error:
                unreadable.append(Unreadable(run.label, f"benchmark.json: {error}"))
    return found, unreadable


def speeds(
    tables: Sequence[Table], curves: Mapping[str, Curves], benchmarks: Sequence[Benchmark]
) -> list[Speed]:
    """For each table of which a run or a benchmark is known."""
    found = []
    for table in tables:
        rows = {line.row for line in table.lines}
        own = [benchmark for benchmark in benchmarks if benchmark.row in rows]
        costs = [_cost(run, curves[run.label]) for run in runs_of(table)]
        if costs or own:
            found.append(Speed(table.title, costs, own, _charts(table, own)))
    return found


def _read(file: Path, row: str) -> Benchmark:
    fields = Fields(read_json(file), file.name)
    sides = fields.texts("image_size")
    if len(sides) != 2:
        raise ValueError(f"image_size must be [height, width], not {sides}")
    total = fields.object("stages").object("total")
    return Benchmark(
        row=row,
        machine=fields.text("machine"),
        size=f"{sides[0]} x {sides[1]}",
        images_per_s=total.number("images_per_s"),
        device_MiB=fields.number("peak_device_MiB"),
        host_MiB=fields.number("peak_host_MiB"),
    )


def _cost(run: Run, curves: Curves) -> Cost:
    rate = curves.typical("images_per_s")
    batch: Any = run.train.get("batch_size")
    if math.isnan(rate) and isinstance(batch, (int, float)):  # runs of before that was recorded
        rate = batch / max(curves.typical("time"), 1e-9)
    environment = run.environment
    devices = environment.get("devices")
    times = f"{devices} x " if isinstance(devices, int) and devices > 1 else ""
    return Cost(
        run=run.label,
        device=f"{times}{environment.get('device', '')}",
        images_per_s=rate,
        device_MiB=curves.highest("device_memory_MiB"),
        host_MiB=curves.highest("host_memory_MiB"),
        wall_seconds=run.wall_seconds,
        device_hours=run.device_hours,
    )


def _charts(table: Table, benchmarks: Sequence[Benchmark]) -> list[tuple[str, Markup]]:
    """The main figure over speed, for each machine and size of images."""
    main = next((name for name in ("PQ", "mIoU") if name in table.columns), None)
    charts = []
    for machine, size in dict.fromkeys((b.machine, b.size) for b in benchmarks):
        rates = {
            b.row: b.images_per_s for b in benchmarks if (b.machine, b.size) == (machine, size)
        }
        dots = []
        for index, line in enumerate(table.lines):
            figure = _figure(line, main)
            if main and math.isfinite(rates.get(line.row, math.nan)) and math.isfinite(figure):
                dots.append(Dot(line.title, index, rates[line.row], figure))
        if dots:
            chart = scatter_chart(f"{main} over speed", dots, "images/s", str(main))
            charts.append((f"{main} over images/s, {size} pixels, {machine}", chart))
    return charts


def _figure(line: Line, name: str | None) -> float:
    cell = line.cells.get(name) if name else None
    return cell.own.mean if cell and cell.own else math.nan
