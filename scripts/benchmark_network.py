"""Networks on a CPU: eager fp32 against `precision=auto`, torch.compile and exported files.

    python scripts/benchmark_network.py                       # two rows at 1024 x 2048
    python scripts/benchmark_network.py --size 512 1024 --threads 1 --no-compile

Each way of running a row takes its turn, round after round, on the same image; from the image to
the maps of the network, for exported files to labels. Times are the shortest, in seconds of the
CPU (of all threads) and of the clock; the speed-up is by the first, which other jobs on the machine
hardly move. Weights are random: speed does not depend on them. Matrix products of the same run say
what the machine can do in fp32. With `taskset -c 0` the programs of files have one thread, too.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from panoptic_dl.config import build, compose
from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path
from panoptic_dl.modes.benchmark import _init_statistics
from panoptic_dl.modes.export import engines
from panoptic_dl.run import work
from panoptic_dl.runtime.session import Session, graph_inputs
from panoptic_dl.train.inference import accelerate, fold_exactly
from panoptic_dl.train.precision import arithmetic, plain_precision

CPU = torch.device("cpu")
SIDE = 2048  # of the matrices


def exported(row: str, model: Any, folder: Path) -> Path:
    """The ONNX file of a row with a model's weights, written once into `folder`."""
    file = folder / row / "model.onnx"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        weights = file.with_name("weights.pth")
        torch.save(model.state_dict(), weights)
        words = [*parts(row), "mode=export", f"weights={weights}", f"run_dir={file.parent}"]
        work("cpu", compose([*words, "export.check=false"]), ())
    return file


def parts(row: str) -> list[str]:
    backbone, _, head = row.rpartition("_")
    return [f"backbone={backbone}", f"head={head}", "dataset=cityscapes"]


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """The shortest seconds of the CPU and of the clock, of each run, after one to warm up."""
    best: dict[str, tuple[float, float]] = {}
    for number in range(1 + rounds):
        for name, run in runs.items():
            cpu, clock = time.process_time(), time.perf_counter()
            run()
            taken = time.process_time() - cpu, time.perf_counter() - clock
            if number:
                before = best.get(name, taken)
                best[name] = min(before[0], taken[0]), min(before[1], taken[1])
    return best


@torch.no_grad()
def compare(row: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A line for each way of running a row."""
    torch.manual_seed(0)
    model: Any = build(compose(parts(row)).task.model).eval()
    small = torch.randn(1, 3, 128, 256)
    _init_statistics(model, lambda: model.network(small))
    precision = plain_precision("precision", "auto", CPU)
    fast, folded = accelerate(model, precision, CPU), copy.deepcopy(model)
    height, width = options.size
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    images = model.preprocess([{"image": pixels[0]}]).tensor
    fold_exactly(row, folded, images[..., :128, :128])
    with FlopCounterMode(display=False) as counter:
        model.network(images)

    def auto() -> None:
        with arithmetic(precision, CPU):
            fast.network(images)

    runs: dict[str, Callable[[], Any]] = {
        "eager fp32": lambda: model.network(images),
        "folded batch norm": lambda: folded.network(images),
        f"precision=auto ({precision})": auto,
    }
    if options.compile:
        compiled = torch.compile(fast.network)
        runs["precision=auto, compiled"] = lambda: compiled(images)
    if options.export:
        file = exported(row, model, folder)
        feeds = graph_inputs(Session(file).metadata, pixels.numpy(), (height, width))
        for name, run in engines(file).items():
            runs[name] = lambda run=run: run(feeds)  # type: ignore[misc]
    one = torch.rand(SIDE, SIDE)
    runs["matrix product"] = lambda: one @ one
    times, operations = measure(runs, options.rounds), counter.get_total_flops()
    product = times.pop("matrix product")[0]
    print(f"{row}: matrix products {2 * SIDE**3 / product / 1e9:.0f} GFLOP/s of each core")
    first = next(iter(times.values()))[0]
    return [
        {
            "row": row,
            "run by": name,
            "CPU s": cpu,
            "s": clock,
            "times as fast": first / cpu,
            "GFLOP/s of each core": operations / cpu / 1e9,
        }
        for name, (cpu, clock) in times.items()
    ]


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = ["hrnet48_dsconv", "xception65_dsconv"]
    parser.add_argument("--rows", nargs="+", default=rows, help="backbone_head")
    parser.add_argument("--size", nargs=2, type=int, default=(1024, 2048), help="height width")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--files", type=local_path, help="folder that exported files are kept in")
    parser.add_argument("--json", type=local_path, help="file of all numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        lines = [line for row in options.rows for line in compare(row, options, folder)]
    height, width = options.size
    print(f"{describe_device('cpu')}; {height} x {width} pixels")
    print(tabulate(lines, "keys", "github", floatfmt=".3g"))
    if options.json:
        options.json.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
