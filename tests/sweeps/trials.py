"""A search around a small task, whose trials end in all ways that jobs can end.

As a program, for searches that are killed: python -m tests.sweeps.trials FOLDER COUNT OVERRIDE ...
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tests.runs import ROOT, multirun

CONFIG = {
    "part": {"a": 0.5, "b": 2},
    "kind": "x",
    "factor": 1.0,
    "launch": {"num_gpus": 1},
    "sweep_dir": "found",
    "hydra": {"searchpath": [f"file://{ROOT}/conf"]},
}
SPACE = ["part.a=interval(0,1)", "part.b=int(interval(1,9))", "kind=x,y"]


def task(config: DictConfig) -> Any:
    """One trial; the environment variable HAPPENS says what happens to which."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with (folder / "ran.txt").open("a") as file:
        file.write("once\n")
    happens = json.loads(os.environ.get("HAPPENS", "{}")).get(folder.name[-1])
    first = len((folder / "ran.txt").read_text().split()) == 1
    if happens in ("kill", "interrupt", "save") and not first:
        happens = None
    if happens == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if happens == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if happens == "save":
        raise SystemExit(75)
    if happens == "exit":
        (folder / "failed.txt").write_text("ValueError: no such file\n")
        raise SystemExit(1)
    if happens == "raise":
        raise RuntimeError("of its own\nand more")
    if happens in ("None", "nan"):
        return {"None": None, "nan": float("nan")}[happens]
    a, b = config.part.a, config.part.b
    return 60 - 40 * (a - 0.3) ** 2 - abs(b - 4) - (config.kind == "y")


def search(folder: Path, count: int, *overrides: str, space: Sequence[str] = SPACE) -> int:
    """Search `count` trials in `folder`/found; return the exit code of the program."""
    defaults = [{"override hydra/job_logging": "none"}]
    (folder / "config.yaml").write_text(yaml.safe_dump({"defaults": defaults, **CONFIG}))
    words = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={count}", *space]
    words += [f"hydra.sweep.dir={folder / 'found'}", "hydra.sweeper.report=null"]
    try:
        multirun(*words, *overrides, task=task, conf=folder)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


def trials(found: Path) -> list[dict[str, Any]]:
    return json.loads((found / "search.json").read_text())["trials"]


def times_run(found: Path) -> list[int]:
    """How often each trial was run."""
    return [len(file.read_text().split()) for file in sorted(found.glob("trial_*/ran.txt"))]


if __name__ == "__main__":
    sys.exit(search(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
