"""Kill a training run again and again; what comes out must equal a run that was left alone.

    python scripts/chaos.py outputs/chaos --kills 50

A small model trains on drawn streets in two processes, or in one. At random moments (while it
starts, trains, saves or evaluates) all its processes, or one of them, get SIGKILL; the same command
is started again with resume=auto. In the end all weights, the optimizer's state and every logged
loss are compared with those of an undisturbed run: equal to the last bit, or exit code 1.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path

ROOT = Path(__file__).parents[1]
TRAINING = [
    *("backbone=hrnet_tiny", "dataset=toy_cityscapes", "dataset.root.size=[128,256]"),
    *("dataset.root.num_train=12", "dataset.root.num_val=2"),
    *("dataset.crop_size=[64,64]", "dataset.min_sizes=[64,80]", "dataset.size_divisibility=0"),
    *("dataset.min_size_test=64", "dataset.max_size_test=128", "evaluation.picture_count=0"),
    *("head.aspp_channels=16", "head.panoptic.semantic.decoder_dim=16"),
    *("head.panoptic.semantic.head_channels=16", "head.panoptic.instance.decoder_dim=16"),
    *("train.batch_size=4", "train.num_workers=1", "train.log_period=1", "train.eval_period=25"),
    *("checkpoint.period=4", "launch.num_gpus=0", "resume=auto"),
]
# What differs between two equal runs.
TIMES = ("time", "data_time", "images_per_s", "host_memory_MiB")


@one_line_errors()
def main() -> None:
    """Run one training alone and one under fire; compare; exit code 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=local_path, help="gets two run folders; must not exist")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2, help="of the training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"{options.folder} exists: name another folder")
    options.folder.mkdir(parents=True)
    alone, under_fire = options.folder / "alone", options.folder / "under_fire"
    started = time.monotonic()
    extra = f"train.iterations={options.iterations}"
    command = [*TRAINING, extra, f"launch.num_cpu_processes={options.processes}"]
    code = start(command, alone).wait()
    if code:
        sys.exit(f"the undisturbed run ended with {code}: see {alone}.txt")
    print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    kills = fire(command, under_fire, options.kills, random.Random(options.seed))
    differences = compare(alone, under_fire)
    print(f"{kills} kills, {options.iterations} iterations: ", end="")
    print("; ".join(differences) if differences else "all weights and logged losses are equal")
    sys.exit(bool(differences))


def start(overrides: Sequence[str], run_dir: Path) -> subprocess.Popen[bytes]:
    """Start a training in a process group of its own; its output goes to `<run_dir>.txt`."""
    with run_dir.with_suffix(".txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "run.py", *overrides, f"run_dir={run_dir.resolve()}"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def fire(overrides: Sequence[str], run_dir: Path, kills: int, chance: random.Random) -> int:
    """Kill and start again until `kills` are done, then let it finish; return how many it was."""
    for number in range(1, kills + 1):
        process = start(overrides, run_dir)
        if chance.random() < 0.8:  # else somewhere in its start
            wait_for_a_step(run_dir, process)
        time.sleep(chance.uniform(0.0, 4.0))
        if process.poll() is not None:
            if process.returncode:
                sys.exit(f"a restarted run ended with {process.returncode}: see {run_dir}.txt")
            return number - 1
        ranks = children(process.pid)
        one, how = bool(ranks) and chance.random() < 0.3, "all"
        with contextlib.suppress(ProcessLookupError):
            if one:
                os.kill(chance.choice(ranks), signal.SIGKILL)
                killed = time.monotonic()
                code = process.wait(timeout=120)  # the others must not wait for ever
                how = f"one process ({time.monotonic() - killed:.0f} s until the run ended)"
                assert code != 0, "a run that lost a process must not look finished"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = steps(run_dir)
        print(f"kill {number}: {how} after step {done}", flush=True)
    code = start(overrides, run_dir).wait()
    if code:
        sys.exit(f"the last run ended with {code}: see {run_dir}.txt")
    return kills


def wait_for_a_step(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Until it has trained on from where it was, or ended."""
    output = run_dir.with_suffix(".txt")
    before = output.read_text().count("total_loss") if output.is_file() else 0
    while process.poll() is None and output.read_text().count("total_loss") <= before:
        time.sleep(0.1)


def steps(run_dir: Path) -> int:
    """Iterations that metrics.json knows of."""
    with contextlib.suppress(OSError):
        return (run_dir / "metrics.json").read_text().count("total_loss")
    return 0


def children(pid: int) -> list[int]:
    """The training processes that a run has spawned."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            c for c in map(int, found) if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()
        ]
    return []


def compare(alone: Path, under_fire: Path) -> list[str]:
    """What differs between two runs, in words."""
    states = [torch.load(d / "model_final.pth", weights_only=True) for d in (alone, under_fire)]
    found = [f"{name} differs" for name in different(*states)]
    lines = [losses(folder) for folder in (alone, under_fire)]
    if lines[0] != lines[1]:
        both = zip(*lines, strict=False)
        first = next((a["iteration"] for a, b in both if a != b), min(map(len, lines)))
        found.append(f"metrics.json differs from iteration {first} on")
    return found


def different(a: Any, b: Any, name: str = "state") -> list[str]:
    """Names of what differs in two nested states."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in different(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in different(x, y, f"{name}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    return [] if a == b else [name]


def losses(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.json without times."""
    lines = map(json.loads, (run_dir / "metrics.json").read_text().splitlines())
    return [{k: repr(v) for k, v in line.items() if k not in TIMES} for line in lines]


if __name__ == "__main__":
    main()
