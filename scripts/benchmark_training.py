"""Speed and memory of a training step: `python scripts/benchmark_training.py --help`.

Rows are trained with random weights on drawn images in Cityscapes' format, twice as large as the
crop: "synthetic" repeats one batch that lies on the device, "mapper" reads, scales, crops and makes
targets anew for every step. On a GPU the batch is doubled until memory runs out, or beyond
`--largest-batch`; on the CPU only the batches that are named are run. A case that fails is named
and left out. Prints Markdown; `--output FILE` writes JSON too, anew after each case.

A setting is `precision`, and what else is switched on, joined by "+":
`bf16+channels_last+compile+activation_checkpointing`. The first is what speed is compared with.
"""

import argparse
import contextlib
import gc
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator
from itertools import count, islice, repeat, takewhile
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch.nn import Module

from panoptic_dl.config import build, compose
from panoptic_dl.core.environment import describe_device, peak_memory, reset_peak_memory
from panoptic_dl.core.errors import one_line, one_line_errors
from panoptic_dl.core.files import local_path, write_text
from panoptic_dl.core.settings import TrainSettings
from panoptic_dl.data.loader import TrainLoader
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.train.precision import check_precision, prepare_training, training_arithmetic
from panoptic_dl.train.trainer import Trainer

ROWS = ("xception65_conv", "hrnet48_conv", "xception65_dsconv", "hrnet48_dsconv")
SWITCHES = ("channels_last", "compile", "activation_checkpointing")


def overrides(
    row: str, size: tuple[int, int], num_workers: int, batch: int, images: int = 32
) -> list[str]:
    """The Cityscapes recipe at crops of `size`, on drawn images of twice that size."""
    backbone, _, head = row.rpartition("_")
    full = compose(["dataset=cityscapes"]).dataset
    ratio = size[0] / full.crop_size[0]
    sides = [round(side * ratio) for side in full.min_sizes]
    return [
        *(f"backbone={backbone}", f"head={head}", "dataset=toy_cityscapes"),
        *(f"dataset.root.num_train={images}", "dataset.root.num_val=1"),
        f"dataset.root.size=[{2 * size[0]},{2 * size[1]}]",
        f"dataset.crop_size=[{size[0]},{size[1]}]",
        f"dataset.min_sizes={sides}",
        f"dataset.max_size={round(full.max_size * ratio)}",
        f"train.num_workers={num_workers}",
        f"train.batch_size={batch}",
    ]


def steps(
    config: Any, setting: str, device: torch.device, kind: str
) -> Generator[None, None, None]:
    """Train; every `next` is one step, done when it returns."""
    precision, *switches = setting.split("+")
    unknown = sorted(set(switches) - set(SWITCHES))
    if unknown:
        raise SystemExit(f"error: setting {setting}: {unknown[0]} is none of {', '.join(SWITCHES)}")
    check_precision("setting", precision, device)
    chosen = {name: name in switches for name in SWITCHES}
    settings = TrainSettings(**{**config.train, "precision": precision, **chosen})
    torch.manual_seed(0)
    model: Module = build(config.task.model).to(device).train()
    prepare_training(model, settings)
    loader = build(config.task.train_loader)
    trainer = Trainer(
        model,
        OneBatch(loader, device) if kind == "synthetic" else loader,
        build(config.optimizer)(model),
        settings,
        device=device,
        stop=StopRequest(),
        run_dir=Path(tempfile.gettempdir()),
    )
    with training_arithmetic(settings), EventStorage() as trainer.storage:
        for trainer.iter in count():
            trainer.run_step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield


class OneBatch:
    """A loader that gives its first batch again and again, from the device."""

    def __init__(self, loader: TrainLoader, device: torch.device) -> None:
        self.seed, self.accumulate = loader.seed, loader.accumulate
        self.max_bad_samples, self.other_records = loader.max_bad_samples, False
        self.device: torch.device | None = device
        self.take_bad_samples = loader.take_bad_samples
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict
        self.batch = [
            {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in sample.items()}
            for sample in next(iter(loader))
        ]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return repeat(self.batch)


def measure(
    config: Any, setting: str, device: torch.device, kind: str, warmup: int, iterations: int
) -> dict[str, Any]:
    """Median seconds of a step, images a second, peak MiB, the first step, the host's waits."""
    with contextlib.closing(steps(config, setting, device, kind)) as training:
        started = time.perf_counter()
        next(training)
        first = time.perf_counter() - started
        for _ in islice(training, warmup):
            pass
        waits = count_waits(training) if device.type == "cuda" else None
        reset_peak_memory(device)
        seconds = []
        for _ in range(iterations):
            started = time.perf_counter()
            next(training)
            seconds.append(time.perf_counter() - started)
        peak = peak_memory(device)
    median = statistics.median(seconds)
    return {
        "s/iter": median,
        "images/s": config.train.batch_size / median,
        "peak MiB": peak,
        "first s": first,  # with the building of the model, and compilation
        "waits": waits,
    }


def count_waits(training: Iterator[None]) -> int:
    """How often the host waits for the GPU in a step, apart from this script at its end."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            next(training)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in caught)


def sizes_of_batches(named: list[int], device: torch.device, largest: int) -> Iterator[int]:
    """The named ones; then, on a GPU, twice the last, and so on up to the largest."""
    yield from named
    if device.type == "cuda":
        doubled = (named[-1] * 2**power for power in count(1))
        yield from takewhile(lambda size: size <= largest, doubled)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each row, setting, input and batch; a case that fails ends its batches."""
    device, machine = torch.device(options.device), describe_device(options.device)
    lines: list[dict[str, Any]] = []
    for row in options.rows:
        for setting in options.settings:
            for kind in options.inputs:
                for batch in sizes_of_batches(options.batches, device, options.largest_batch):
                    numbers = options.size, options.num_workers, batch, options.images
                    config = compose(overrides(row, *numbers))
                    line = {"row": row, "setting": setting, "input": kind, "batch": batch}
                    try:
                        found = measure(
                            config, setting, device, kind, options.warmup, options.iterations
                        )
                    except torch.OutOfMemoryError:
                        print(f"{line}: out of memory", flush=True)
                        break
                    except (
                        RuntimeError,
                        ValueError,
                        OSError,
                    ) as error:  # no compiler, too many open files
                        print(f"{line}: {one_line(str(error))[:300]}", flush=True)
                        break
                    finally:
                        gc.collect()
                        if device.type == "cuda":
                            torch.cuda.empty_cache()
                    first = next(
                        (
                            other["s/iter"]
                            for other in lines
                            if other["setting"] == options.settings[0]
                            and all(other[key] == line[key] for key in ("row", "input", "batch"))
                        ),
                        found["s/iter"],
                    )
                    lines.append(line | found | {"speed": first / found["s/iter"]})
                    print(lines[-1], flush=True)
                    if options.output:
                        result = {"machine": machine, "size": list(options.size), "lines": lines}
                        write_text(options.output, json.dumps(result, indent=2) + "\n")
    return lines


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    best = "bf16+channels_last+compile"
    parser.add_argument("--rows", nargs="+", default=ROWS, help="backbone_head")
    parser.add_argument("--settings", nargs="+", default=["fp32", best])
    parser.add_argument("--inputs", nargs="+", default=["synthetic", "mapper"])
    parser.add_argument("--batches", nargs="+", type=int, default=[4])
    parser.add_argument("--largest-batch", type=int, default=64, help="that doubling reaches")
    parser.add_argument("--images", type=int, default=32, help="that are drawn")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 1024), help="height width")
    parser.add_argument("--iterations", type=int, default=20 if gpu else 3)
    parser.add_argument("--warmup", type=int, default=10 if gpu else 1)
    parser.add_argument("--num-workers", type=int, default=10 if gpu else 1)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--output", type=local_path, help="JSON file")
    options = parser.parse_args()
    lines = run(options)
    height, width = options.size
    print(f"\n{describe_device(options.device)}; crops of {height} x {width} pixels")
    print(tabulate(lines, "keys", "github", floatfmt=".4g"))


if __name__ == "__main__":
    main()
