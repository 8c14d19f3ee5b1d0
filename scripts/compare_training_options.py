"""Does an option of training change what is learned? `python scripts/compare_training_options.py`.

Trains a small toy once with each option and several times without any, each with another seed;
prints a Markdown table. An option fails when its PQ is lower than that of the worst seed by more
than the spread of the seeds; one that is higher than the best by more than that is said to be, for
it means that three seeds do not show all of the noise. A run takes one to two minutes on one core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from panoptic_dl.core.errors import one_line_errors

ROOT = Path(__file__).parents[1]
# The quickstart on images, and objects, of half its size.
TOY = (
    "experiment=toy_quickstart",
    *("dataset.root.size=[128,256]", "dataset.root.num_train=100", "dataset.root.num_val=20"),
    *("dataset.crop_size=[64,128]", "dataset.min_sizes=[96,112,128]", "dataset.max_size=512"),
    *("dataset.min_size_test=128", "dataset.max_size_test=256", "dataset.gaussian_sigma=3"),
    *("dataset.small_instance_area=64", "dataset.stuff_area=32"),
    *("recipe_record.iterations=200", "train.num_workers=0", "train.log_period=50"),
    *("evaluation.picture_count=0", "evaluation.best_and_worst=0", "evaluation.charts=false"),
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "bf16": ("train.precision=bf16",),
    "channels_last": ("train.channels_last=true",),
    "activation_checkpointing": ("train.activation_checkpointing=true",),
    "compile": ("train.compile=true",),
    "ema": ("train.ema=0.99",),
    "accumulate": ("train.accumulate=2",),
    "clip_norm": ("train.clip_norm=10.0",),
}


def train(run_dir: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The metrics of one run, with `seconds`; stops the program when the run fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "run.py", *TOY, *overrides, f"run_dir={run_dir}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"error: the run {' '.join(overrides)} failed:\n{done.stderr[-2000:]}")
    metrics = json.loads((run_dir / "results.json").read_text())["metrics"]
    averaged = run_dir / "ema" / "results.json"
    if averaged.is_file():
        metrics["ema/PQ"] = json.loads(averaged.read_text())["metrics"]["PQ"]
    return {**metrics, "seconds": time.perf_counter() - started}


def expected(baseline: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest PQ that is no surprise after runs that differ in their seed only."""
    spread = max(1.0, max(baseline) - min(baseline))
    return min(baseline) - spread, max(baseline) + spread


def compare(
    seeds: Sequence[int], options: Mapping[str, Sequence[str]], folder: Path
) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether all options pass."""
    rows = []
    baseline: list[float] = []
    for seed in seeds:
        found = train(folder / f"seed{seed}", [f"seed={seed}"])
        baseline.append(found["PQ"])
        rows.append([f"none, seed {seed}", f"{found['PQ']:.1f}", f"{found['seconds']:.0f}", ""])
        print(rows[-1], flush=True)
    low, high = expected(baseline)
    passed = True
    for name, overrides in options.items():
        found = train(folder / name, [*overrides, f"seed={seeds[0]}"])
        figures = {name: found["PQ"]}
        if "ema/PQ" in found:
            figures[f"{name}: the average itself"] = found["ema/PQ"]
        for what, figure in figures.items():
            passed &= figure >= low
            verdict = "as the seeds"
            if figure < low:
                verdict = f"LOWER than {low:.1f}"
            elif figure > high:
                verdict = f"higher than {high:.1f}"
            rows.append([what, f"{figure:.1f}", f"{found['seconds']:.0f}", verdict])
            print(rows[-1], flush=True)
    spread = (
        f"mean {statistics.mean(baseline):.1f}, from {min(baseline):.1f} to {max(baseline):.1f}"
    )
    print(f"\nPQ of {len(seeds)} seeds: {spread}")
    return rows, passed


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--options", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, passed = compare(
            options.seeds, {name: OPTIONS[name] for name in options.options}, Path(folder)
        )
    print(tabulate(rows, ["option", "PQ", "seconds", ""], "github", disable_numparse=True))
    if not passed:
        raise SystemExit("error: an option changes what is learned")


if __name__ == "__main__":
    main()
