"""What a few minutes of a GPU can prove: `python scripts/gpu_check.py --minutes 9 --out DIR`.

Stages run one after the other, each in a process of its own with a time limit, and each appends a
line of JSON to DIR/results.jsonl as it ends, so that a cut loses one stage; DIR/log.txt has what
they printed. It needs no network: on a bare machine with PyTorch, from what
`scripts/pack_wheels.sh` packs. `make gpu-report ARGS=DIR` makes tables of the lines.

`--device cpu --minutes 3` rehearses it with tiny networks. `--stages NAME...` runs only those.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, LOG = "results.jsonl", "log.txt"
LEAST = 3.0  # seconds; with less left a stage is not begun
SIZE = {"cuda": (512, 1024), "cpu": (32, 64)}  # crops of training steps, in pixels
IMAGES = 4  # drawn for them, twice as large
TOY = (  # a training of seconds that finds something
    *("experiment=toy_quickstart", "dataset.root.num_train=16", "dataset.root.num_val=8"),
    *("train.log_period=5", "checkpoint.period=1000", "evaluation.charts=false"),
    *("evaluation.picture_count=0", "evaluation.best_and_worst=0"),
)


@dataclass
class Stage:
    """A part of the check: a command, or a function of this file in a process of its own."""

    name: str
    seconds: float  # at most, of nine minutes on a GPU
    command: tuple[str, ...] = ()  # {result} is the file of JSON that it leaves
    devices: tuple[str, ...] = ("cuda", "cpu")
    beside: bool = False  # of the others, at low priority
    variables: dict[str, str] = field(default_factory=dict)


def command(words: str) -> tuple[str, ...]:
    """A command of Python's."""
    return (sys.executable, "-u", *words.split())


def training(name: str, seconds: float, rows: str, settings: str, more: str, **facts: Any) -> Stage:
    """A stage of benchmark_training.py."""
    words = "scripts/benchmark_training.py --device {device} --size {height} {width} "
    words += f"--rows {rows} --settings {settings} {more} --images {IMAGES} --largest-batch 4 "
    return Stage(name, seconds, command(words + "--output {result}"), **facts)


def inference(row: str) -> Stage:
    """A stage of mode=benchmark: several settings of a row."""
    backbone, _, head = row.partition("_")
    words = "run.py mode=benchmark dataset=cityscapes benchmark.autotune=true run_dir={folder} "
    if row.startswith("hrnet_tiny"):
        backbone, head, words = "hrnet_tiny", "conv", f"{words} benchmark.image_size=[64,128] "
    words += f"backbone={backbone} head={head}"
    uncompiled = {"TORCHDYNAMO_DISABLE": "1"} if backbone == "hrnet_tiny" else {}
    return Stage(f"inference_{row}", 60, command(words), variables=uncompiled)


def plan(device: str) -> list[Stage]:
    """The stages in their order: what decides whether others mean anything comes first."""
    gpu, fast = ("cuda",), "bf16+channels_last+compile"
    tests = "tests/data/test_loader.py tests/postprocess/test_panoptic.py"
    post = "scripts/benchmark_postprocess.py --device {device} --json {result}"
    rows, settings = "hrnet48_conv xception65_conv", "fp32 tf32 bf16 bf16+channels_last"
    settings += " bf16+channels_last+activation_checkpointing"
    steps = "--inputs synthetic --batches 4 --warmup 4 --iterations 12"
    mapped = "--inputs mapper --batches 4 --warmup 10 --iterations 50 --num-workers 10"
    once = "--inputs synthetic --batches 4 --warmup 0 --iterations 1"
    if device == "cpu":
        rows, settings = "hrnet_tiny_conv", "fp32 fp32+channels_last"
        steps = "--inputs synthetic mapper --batches 2 --iterations 2"
        tests += " --collect-only"
        post += " --size 128 256 --centers 10 --repeats 2"
    first = rows.split()[0]
    stages = [
        Stage("environment", 40),
        Stage("scenes", 60),
        training("compile_cold", 240, first, fast, once, devices=gpu, beside=True),
        Stage("tests", 45, command(f"-m pytest -m gpu -p no:cacheprovider {tests}")),
        Stage("postprocess", 45, command(post)),
        training("training", 130, rows, settings, steps),
        *(inference(row) for row in rows.split()),
        Stage("evaluation", 70),
        training("compile_warm", 60, first, fast, steps, devices=gpu),
        Stage("sync_batch_norm", 45),
        training("mapper", 40, first, "bf16", mapped, devices=gpu),
        Stage("out_of_memory", 40, devices=gpu),
        Stage("resume", 70),
        Stage("postprocess_199", 20, command(f"{post} --ours-only --centers 199"), devices=gpu),
    ]
    return [stage for stage in stages if device in stage.devices]


# ---- running stages --------------------------------------------------------------------------


class Check:
    """The stages under way, and the file of their results."""

    def __init__(self, out: Path, device: str, minutes: float) -> None:
        self.out, self.device, self.started = out, device, time.monotonic()
        self.end = self.started + 60 * minutes
        self.scale = minutes / 9 if device == "cuda" else 1.0
        out.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
        self.beside: list[tuple[Stage, subprocess.Popen[bytes], float]] = []

    def run(self, stages: list[Stage]) -> list[dict[str, Any]]:
        """Run the stages; their lines."""
        lines = []
        for stage in stages:
            left = self.end - time.monotonic()
            if left < LEAST:
                lines.append(self.note(stage, "skipped", 0.0))
                continue
            began = time.monotonic()
            with (self.out / LOG).open("ab") as log:
                log.write(f"\n==== {stage.name}\n".encode())
                log.flush()
                process = self.start(stage, log)
            if stage.beside:
                self.beside.append((stage, process, began))
                continue
            status = self.wait(process, min(self.scale * stage.seconds, left))
            lines.append(self.note(stage, status, time.monotonic() - began))
        for stage, process, began in self.beside:
            status = self.wait(process, max(0.1, self.end - time.monotonic()))
            lines.append(self.note(stage, status, time.monotonic() - began))
        return lines

    def start(self, stage: Stage, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        height, width = SIZE[self.device]
        names = {"device": self.device, "height": str(height), "width": str(width)}
        names |= {"result": str(self.result(stage)), "folder": str(self.work / stage.name)}
        own = f"{__file__} --device {self.device} --out {{folder}} --stage {stage.name}"
        words = list(stage.command or command(f"{own} --result {{result}}"))
        for name, value in names.items():
            words = [word.replace(f"{{{name}}}", value) for word in words]
        if stage.beside:
            words = ["nice", "-n", "19", *words]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"), "PYTHONPATH": path}
        environment = {**os.environ, **cache, **stage.variables}
        return subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def wait(self, process: "subprocess.Popen[bytes]", seconds: float) -> str:
        """How a stage has ended; after `seconds` it and its children are killed."""
        try:
            return "ok" if process.wait(seconds) == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            return "out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def result(self, stage: Stage) -> Path:
        folder = self.work / stage.name
        folder.mkdir(exist_ok=True)
        return folder / ("benchmark.json" if "run.py" in stage.command else "result.json")

    def note(self, stage: Stage, status: str, seconds: float) -> dict[str, Any]:
        """Append a stage's line, with what it has measured before it ended."""
        result: Any = None
        with contextlib.suppress(OSError, ValueError):
            result = json.loads(self.result(stage).read_text())
        line: dict[str, Any] = {"stage": stage.name, "device": self.device, "status": status}
        line |= {"seconds": round(seconds, 1), "result": result}
        if status != "ok" and status != "skipped":
            said = (
                (self.out / LOG).read_text(errors="replace").rpartition(f"==== {stage.name}\n")[2]
            )
            line["said"] = said.partition("\n====")[0].strip()[-600:]
        with (self.out / RESULTS).open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{time.monotonic() - self.started:6.1f} s  {stage.name:28} {status}", flush=True)
        return line


# ---- stages that are functions ---------------------------------------------------------------


def environment(device: str) -> dict[str, Any]:
    """Versions, the card and its driver, and whether all of the package can be imported."""
    import importlib
    import pkgutil

    import torch

    import panoptic_dl
    from panoptic_dl.core.environment import describe, describe_device

    missing = {}
    for module in pkgutil.walk_packages(panoptic_dl.__path__, "panoptic_dl."):
        try:
            importlib.import_module(module.name)
        except Exception as error:  # such as of an extra that is not installed
            missing[module.name] = str(error)[:200]
    facts: dict[str, Any] = {"missing": missing, "versions": describe().splitlines()}
    if device == "cuda":
        query = "--query-gpu=name,driver_version,memory.total,power.limit"
        words = ["nvidia-smi", query, "--format=csv,noheader"]
        facts["nvidia_smi"] = subprocess.run(words, capture_output=True, text=True).stdout.strip()
        facts["architectures"] = torch.cuda.get_arch_list()
        facts["capability"] = list(torch.cuda.get_device_capability())
    return {"machine": describe_device(device), **facts}


def scenes(device: str) -> dict[str, Any]:
    """Draw the images of all stages, where they do not lie in PANOPTIC_DL_CACHE."""
    from benchmark_training import overrides
    from panoptic_dl.config import build, compose

    return {
        name: str(build(compose(list(words)).dataset.root))
        for name, words in {
            "steps": overrides("hrnet_tiny_conv", SIZE[device], 0, 4, IMAGES),
            "toy": TOY,
        }.items()
    }


def run_py(folder: Path, device: str, *words: str, **options: Any) -> "subprocess.Popen[bytes]":
    number = f"launch.num_gpus={int(device != 'cpu')}"
    folder.mkdir(parents=True, exist_ok=True)
    words = (*command("run.py"), *words, number, f"run_dir={folder}")
    return subprocess.Popen(words, cwd=ROOT, **options)


def toy(device: str) -> tuple[str, ...]:
    """The words of a short training."""
    if device == "cuda":
        return (*TOY, "train.num_workers=10", "train.iterations=150")
    return (*TOY, "train.batch_size=2", "train.num_workers=0", "train.iterations=12")


def evaluation(device: str) -> dict[str, Any]:
    """A short training, and its evaluation on the device, by precision=auto, and on the CPU."""
    work = Path(tempfile.mkdtemp())
    assert run_py(work / "run", device, *toy(device)).wait() == 0
    metrics = {device: read_metrics(work / "run")}
    for name, place, precision in (("auto", device, "auto"), ("cpu_fp32", "cpu", "fp32")):
        words = ["mode=eval", f"weights={work / 'run'}", f"evaluation.precision={precision}"]
        done = run_py(work / name, place, *words).wait()
        metrics[name] = read_metrics(work / name) if done == 0 else {"exit": done}
    return {"metrics": metrics}


def read_metrics(folder: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((folder / "results.json").read_text())["metrics"]
    return metrics


def losses(folder: Path) -> dict[int, float]:
    """The total loss by iteration, from metrics.json."""
    file = folder / "metrics.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


def resume(device: str) -> dict[str, Any]:
    """A training that SIGTERM stops and `resume=auto` goes on with, against one in one piece."""
    work = Path(tempfile.mkdtemp())
    words = (*toy(device), "train.eval_at_end=false")
    assert run_py(work / "whole", device, *words).wait() == 0
    stopped = run_py(work / "parts", device, *words)
    while stopped.poll() is None and not losses(work / "parts"):
        time.sleep(0.05)
    stopped.terminate()
    code = stopped.wait()
    resumed = run_py(work / "parts", device, *words, "resume=auto").wait()
    whole, parts = losses(work / "whole"), losses(work / "parts")
    gaps = [abs(whole[i] - parts[i]) / abs(whole[i]) for i in whole.keys() & parts.keys()]
    codes = {"stopped": code, "resumed": resumed}
    return {"exit_codes": codes, "compared": len(gaps), "largest_relative_gap": max(gaps)}


def out_of_memory(device: str) -> dict[str, Any]:
    """A batch that no card holds: the exit code, and what the user reads."""
    from benchmark_training import overrides

    words = overrides("hrnet48_conv", SIZE[device], 10, 256, IMAGES)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = run_py(Path(tempfile.mkdtemp()), device, *words, "train.iterations=1", **pipe)
    text = process.communicate()[0].decode(errors="replace")
    return {"exit": process.returncode, "traceback": "Traceback" in text, "said": text[-800:]}


def sync_batch_norm(device: str) -> dict[str, Any]:
    """Two processes on one device, over gloo, against one with the whole batch."""
    import torch
    from torch import multiprocessing

    work = tempfile.mkdtemp()
    multiprocessing.spawn(_layers, (device, work, 2), nprocs=2)
    _layers(0, device, work, 1)
    two, one = (torch.load(f"{work}/{number}.pt", weights_only=True) for number in (2, 1))
    gap = max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(two["values"], one["values"], strict=True)
    )
    times = {"ms_a_layer": (two["ms"] - one["ms"]) / LAYERS, "ms_one_process": one["ms"]}
    return {"layer": two["layer"], "largest_relative_gap": gap, **times}


LAYERS = 20


def _layers(rank: int, device: str, work: str, size: int) -> None:
    """Forward and backward passes of some layers; statistics, a gradient and times into a file."""
    import torch
    import torch.distributed as dist
    from detectron2.utils import comm
    from torch import nn

    from panoptic_dl.models.batch_norm import convert_sync_batch_norm

    if size > 1:
        dist.init_process_group("gloo", f"file://{work}/store", rank=rank, world_size=size)
        comm.create_local_process_group(size)
    torch.manual_seed(0)
    blocks = [(nn.Conv2d(32, 32, 1, bias=False), nn.SyncBatchNorm(32)) for _ in range(LAYERS)]
    model: Any = convert_sync_batch_norm(nn.Sequential(*(m for block in blocks for m in block)))
    model.to(device)
    images = torch.randn(4, 32, 64, 64).to(device).chunk(size)[rank]
    milliseconds = []
    for _ in range(5):
        model.zero_grad()
        started = time.perf_counter()
        (model(images) ** 3).mean().backward()
        values = [model[1].running_mean, model[-1].running_var, model[0].weight.grad.clone()]
        if size > 1:
            dist.all_reduce(values[-1])
            values[-1] /= size
        values = [value.detach().cpu() for value in values]
        milliseconds.append(1000 * (time.perf_counter() - started))
    if rank == 0:
        found = {"values": values, "ms": min(milliseconds), "layer": type(model[1]).__name__}
        torch.save(found, f"{work}/{size}.pt")
    if size > 1:
        dist.destroy_process_group()


FUNCTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    each.__name__: each
    for each in (environment, scenes, evaluation, resume, out_of_memory, sync_batch_norm)
}


def main() -> None:
    sys.path.insert(0, str(ROOT))  # it need not be installed
    from panoptic_dl.core.files import local_path

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=local_path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--stages", nargs="+", help="only these")
    parser.add_argument("--stage", choices=FUNCTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=local_path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        text = json.dumps(FUNCTIONS[options.stage](options.device), indent=2)
        print(text)
        if options.result:
            options.result.write_text(text)
        return
    stages = plan(options.device)
    if unknown := sorted(set(options.stages or ()) - {stage.name for stage in stages}):
        names = ", ".join(stage.name for stage in stages)
        raise SystemExit(f"error: {unknown[0]} is no stage of {options.device}; there are {names}")
    if options.stages:
        stages = [stage for stage in stages if stage.name in options.stages]
    if not math.isfinite(options.minutes) or options.minutes <= 0:
        raise SystemExit(f"error: --minutes {options.minutes} must be above 0")
    lines = Check(options.out, options.device, options.minutes).run(stages)
    right = sum(line["status"] == "ok" for line in lines)
    print(f"{right} of {len(lines)} stages ended well; {options.out / RESULTS}")
    raise SystemExit(0 if right == len(lines) else 1)


if __name__ == "__main__":
    main()
