"""mode=benchmark: the time of inference, stage by stage.

Legend: N batch, K classes, H W pixels.
"""

import contextlib
import copy
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from panoptic_dl.core.environment import (
    describe_device,
    peak_host_memory,
    peak_memory,
    reset_peak_memory,
)
from panoptic_dl.core.errors import WeightsError, one_line
from panoptic_dl.core.files import local_path, sha256_of, write_text
from panoptic_dl.core.run_folder import find_weights, is_exported, read_config
from panoptic_dl.core.settings import PRECISIONS, BenchmarkSettings, as_yaml
from panoptic_dl.loggers.base import Logger, Loggers, Run
from panoptic_dl.modes.export import Engine, engines
from panoptic_dl.modes.scene_maps import BenchmarkScenes
from panoptic_dl.postprocess.panoptic import detectron2_segmentations
from panoptic_dl.report.benchmark import (
    benchmark_text,
    combine_benchmarks,
    draw_stages,
    engines_text,
    summarize,
)
from panoptic_dl.runtime.session import Session, graph_inputs
from panoptic_dl.train import inference
from panoptic_dl.train.precision import (
    arithmetic,
    check_precision,
    compile_errors,
    plain_precision,
)
from panoptic_dl.weights.load import load_model

STAGES = ("load and decode", "host to device", "network", "post-processing")
TOLERANCE = 0.005  # share of pixels, 0..1, that may get another class in the fastest setting
NO_EFFECT = {"changed_classes": 0.0}
Maps = tuple[Tensor, ...]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]

logger = logging.getLogger(__name__)


def benchmark(
    *,
    device: str,
    model: Any,
    scenes: BenchmarkScenes,
    mapper: Mapper,
    weights: str | None,
    run_dir: str,
    name: str,
    settings: dict[str, Any],
    image_format: str = "RGB",
    loggers: dict[str, Logger] | None = None,
) -> dict[str, Any]:
    """Time each stage of inference on drawn scenes; print a table, save JSON and a picture.

    The network gets images; post-processing gets maps as of a trained network, because the output
    of random weights has no instances. Speed does not depend on `weights`. `settings` are fields
    of `BenchmarkSettings`; with `autotune` several are tried, of the network alone. Where `weights`
    are an exported file, the programs that can run it are
    timed beside PyTorch, on the CPU.

    Raises ValueError for options that cannot be, or that this machine does not have.
    """
    chosen = BenchmarkSettings(**settings)
    exported = weights is not None and is_exported(weights)
    place = torch.device("cpu" if exported else device)
    check_precision("benchmark.precision", chosen.precision, place)
    if comm.get_world_size() > 1:
        raise ValueError("mode=benchmark measures one process: drop launch.num_gpus and the like")
    if chosen.autotune and not exported:
        same: dict[str, Any] = {"device": device, "scenes": scenes, "mapper": mapper}
        same |= {"weights": weights, "name": name, "image_format": image_format}
        return _autotune(partial(benchmark, **same), model, chosen, Path(run_dir))
    model.to(place).eval()
    run = _Benchmark(model, scenes, mapper, chosen, place)
    if weights is not None and exported:
        return _compare_engines(run, local_path(weights, "weights"), image_format, Path(run_dir))
    if weights is not None:
        load_model(model, weights, image_format)
    else:
        _init_statistics(model, lambda: model.network(run.images[:1]))
    macs = run.count_macs()
    difference = run.apply_options()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("Warming up %d times, then timing %d iterations", run.warmup, run.iterations)
    times = run.time_stages()
    peaks = run.peak_memory()
    result: dict[str, Any] = {
        "name": name,
        "machine": describe_device(device),
        "image_size": list(scenes.size),
        "input_size": list(run.images.shape[2:]),
        "settings": settings,
        "weights": weights,
        "stages": {stage: summarize(values, chosen.batch_size) for stage, values in times.items()},
        "parameters": parameters,
        "GMACs": macs / 1e9,
        "GMACs_convention": "one multiplication with one addition; convolutions and matrix products"
        " of backbone and heads, for one image (torch.utils.flop_counter, halved)",
        **peaks,
        "effect": difference,
    }
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "benchmark.json", json.dumps(result, indent=2) + "\n")
    draw_stages([result], folder / "benchmark.png")
    logger.info("%s", benchmark_text(result))
    p50 = {f"{stage} ms": times["p50"] for stage, times in result["stages"].items()}
    metrics = {"total ms": p50.pop("total ms"), **p50}
    more = {"parameters": parameters, "GMACs": macs / 1e9}
    more |= {name: value for name, value in peaks.items() if value is not None}
    with Loggers(loggers) as listening:
        listening.start(Run(folder, "benchmark"))
        listening.measured(metrics | more, [folder / "benchmark.png"])
    return {"metrics": metrics, **result}


class _Benchmark:
    """The measurements of one benchmark."""

    def __init__(
        self,
        model: Any,
        scenes: BenchmarkScenes,
        mapper: Mapper,
        settings: BenchmarkSettings,
        device: torch.device,
    ) -> None:
        self.model, self.scenes, self.mapper = model, scenes, mapper
        self.settings, self.device = settings, device
        on_gpu = device.type == "cuda"
        self.warmup = (10 if on_gpu else 1) if settings.warmup is None else settings.warmup
        self.iterations = settings.iterations or (50 if on_gpu else 5)
        self.panoptic = hasattr(model, "segment")
        if settings.postprocess == "reference":
            if not self.panoptic:
                raise ValueError(
                    "benchmark.postprocess=reference swaps the grouping of pixels, which "
                    "task=semantic has none of: drop it"
                )
            model.segment = detectron2_segmentations
        self.network = model.network
        self.images = model.preprocess(self.load(0)).tensor

    def indices(self, iteration: int) -> range:
        """Of the scenes in a batch."""
        size = self.settings.batch_size
        return range(iteration * size, (iteration + 1) * size)

    def load(self, iteration: int) -> list[dict[str, Any]]:
        """Read and decode the images of a batch."""
        return [self.mapper(self.scenes.record(index)) for index in self.indices(iteration)]

    @torch.no_grad()
    def count_macs(self) -> float:
        """Multiplications with additions of the network, for one image."""
        with FlopCounterMode(display=False) as counter, arithmetic("fp32", self.device):
            self.network(self.images[:1])
        return counter.get_total_flops() / 2

    @torch.no_grad()
    def apply_options(self) -> dict[str, float | None] | None:
        """Change the network as the settings want it, and compare its output before and after.

        Shares of pixels whose class or panoptic id changes are 0..1; None where nothing is changed.
        """
        settings = self.settings
        changes = settings.channels_last or settings.compile or settings.fold_batch_norm
        if settings.precision == "fp32" and not changes:
            return None
        with arithmetic("fp32", self.device):
            before = tuple(maps.clone() for maps in self.network(self.images))
        if settings.fold_batch_norm:
            side = inference.FOLDED_SIDE
            example = self.images[:1, :, :side, :side]
            inference.fold_exactly("benchmark.fold_batch_norm=true", self.model, example)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
            self.network = lambda images: self.model.network(
                images.contiguous(memory_format=torch.channels_last)
            )
        with arithmetic(settings.precision, self.device):
            if settings.compile:
                mode = None if settings.compile is True else settings.compile
                with compile_errors("benchmark.compile"):
                    self.network = torch.compile(self.network, mode=mode)
                    self.network(self.images)
            after = self.network(self.images)
        share = None
        if self.panoptic:
            sizes = [self.scenes.size] * settings.batch_size
            outputs = [
                self.model.postprocess(m, sizes, [{} for _ in sizes]) for m in (before, after)
            ]
            shares = [
                (a["panoptic_seg"][0] != b["panoptic_seg"][0]).float().mean().item()
                for a, b in zip(*outputs, strict=True)
            ]
            share = sum(shares) / len(shares)
        logits, changed = before[0].float(), after[0].float()
        return {
            "max_logit_difference": (logits - changed).abs().max().item(),
            "logit_spread": logits.std().item(),
            "changed_classes": (logits.argmax(1) != changed.argmax(1)).float().mean().item(),
            "changed_panoptic": share,
        }

    def time_stages(self) -> dict[str, list[float]]:
        """Milliseconds of every iteration by stage, and in `total`."""
        times: dict[str, list[float]] = {}
        for iteration in range(self.warmup + self.iterations):
            laps: dict[str, float] = {}
            self.run_stages(iteration, partial(_timed, laps, self.device))
            laps["total"] = sum(laps.values())
            if iteration >= self.warmup:
                for stage, milliseconds in laps.items():
                    times.setdefault(stage, []).append(milliseconds)
        return times

    def peak_memory(self) -> dict[str, float | None]:
        """Peaks in MiB of one more iteration, without what making the scene's maps takes."""
        peaks: list[tuple[float, float]] = []

        @contextlib.contextmanager
        def measured(stage: str) -> Iterator[None]:
            if stage in (STAGES[0], STAGES[3]):  # maps are made between the others and the last
                reset_peak_memory(self.device)
            yield
            peaks.append((peak_memory(self.device), peak_host_memory()))

        self.run_stages(0, measured)
        on_device, on_host = (max(each) for each in zip(*peaks, strict=True))
        return {
            "peak_device_MiB": on_device if self.device.type == "cuda" else None,
            "peak_host_MiB": on_host,
        }

    @torch.no_grad()
    def run_stages(
        self, iteration: int, measure: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """Work through a batch, each of STAGES inside `measure(stage)`."""
        with measure(STAGES[0]):
            samples = self.load(iteration)
        with measure(STAGES[1]):
            samples = [s | {"image": s["image"].to(self.device)} for s in samples]
        with measure(STAGES[2]):
            images = self.model.preprocess(samples)
            with arithmetic(self.settings.precision, self.device):
                maps = self.network(images.tensor)
        if self.settings.network_only:
            return
        if self.panoptic:
            maps = self.trained_maps(iteration, maps)
        with measure(STAGES[3]):
            self.model.postprocess(maps, images.image_sizes, samples)

    def trained_maps(self, iteration: int, maps: Maps) -> Maps:
        """Maps of the scenes, with shape and type of the network's. Not timed."""
        scenes = [self.scenes.maps(index) for index in self.indices(iteration)]
        num_classes = maps[0].shape[1]
        height, width = maps[1].shape[2:]
        stride = width // maps[0].shape[3]  # 1, or that of the head where no logits are needed

        found = []
        for name, like in zip(("logits", "center", "offset"), maps, strict=True):
            parts = [
                s.logits(num_classes) if name == "logits" else getattr(s, name) for s in scenes
            ]
            padded = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in parts]
            found.append(torch.stack(padded).to(like))
        found[0] = found[0][:, :, ::stride, ::stride].contiguous()
        assert found[0].shape == maps[0].shape
        return tuple(found)


def _autotune(
    measure: Callable[..., dict[str, Any]], model: Any, chosen: BenchmarkSettings, run_dir: Path
) -> dict[str, Any]:
    """Measure the network in one setting after the other, each into a folder of `run_dir`.

    Compiled is only what is the fastest without. Logs one table, and the overrides of the fastest;
    a setting that this machine does not have is left out.
    """
    device = torch.device(measure.keywords["device"])  # type: ignore[attr-defined]
    on_gpu, results = device.type == "cuda", list[dict[str, Any]]()
    few = {"network_only": True, "iterations": chosen.iterations or (50 if on_gpu else 2)}

    def attempt(**changes: Any) -> None:
        settings, folder = {**asdict(chosen), **few, **changes}, run_dir / f"{len(results):02}"
        settings["autotune"] = False
        try:
            result = measure(model=copy.deepcopy(model), settings=settings, run_dir=str(folder))
        except (ValueError, RuntimeError) as error:
            if not results:
                raise
            logger.warning("%s is left out: %s", changes, one_line(str(error))[:300])
            return
        results.append({**result, "changes": changes})
        logger.info("%s", combine_benchmarks(run_dir))

    def fastest() -> dict[str, Any]:
        exact = [r for r in results if (r["effect"] or NO_EFFECT)["changed_classes"] <= TOLERANCE]
        return min(exact, key=lambda result: result["stages"]["network"]["p50"])

    here = PRECISIONS if on_gpu else ("fp32", plain_precision("", "auto", device))
    for precision in dict.fromkeys(here):
        attempt(precision=precision)
        attempt(precision=precision, fold_batch_norm=True)
        attempt(precision=precision, fold_batch_norm=True, channels_last=True)
    uncompiled = fastest()["changes"]
    for mode in ("default", "reduce-overhead") if on_gpu else ("default",):
        attempt(**uncompiled, compile=mode)
    best = fastest()
    logger.info(
        "Fastest with at most %g %% other classes: %s",
        100 * TOLERANCE,
        " ".join(f"benchmark.{name}={as_yaml(value)}" for name, value in best["changes"].items()),
    )
    return best


def _compare_engines(
    run: _Benchmark, file: Path, image_format: str, run_dir: Path
) -> dict[str, Any]:
    """Time an exported file from pixels to labels, in each program that runs it and in PyTorch.

    PyTorch has the weights that the file was made of, where they are still in their place.
    ValueError: the file is of another task or batch, or `benchmark.*` changes PyTorch alone.
    """
    metadata, model, (height, width) = Session(file).metadata, run.model, run.scenes.size
    if metadata.batch not in (None, run.settings.batch_size):
        raise ValueError(
            f"{file} takes {metadata.batch} images at once: set benchmark.batch_size="
            f"{metadata.batch}"
        )
    if metadata.task != ("panoptic" if run.panoptic else "semantic"):
        raise ValueError(f"{file} is of task={metadata.task}, and the network to compare is not")
    usual = BenchmarkSettings(image_size=run.settings.image_size)
    of_torch = "network_only precision channels_last compile fold_batch_norm autotune"
    for name in of_torch.split():
        if getattr(run.settings, name) != getattr(usual, name):
            raise ValueError(
                f"benchmark.{name} is of PyTorch's network alone, and {file} is compared with it "
                "as it is: leave that out"
            )
    source, same = read_config(file.parent).get("weights") or "", False
    with contextlib.suppress(WeightsError):  # a run's folder without its checkpoint
        sha256 = metadata.provenance.get("sha256")
        same = source != "" and sha256_of(find_weights(source)) == sha256
    if same:
        load_model(model, source, image_format)
    else:
        logger.warning("The weights that %s was made of are not here: PyTorch's are random", file)
        _init_statistics(model, lambda: model.network(run.images[:1]))
    batches = [run.load(number) for number in range(run.scenes.num_scenes)]
    feeds = []
    for samples in batches:
        images = torch.stack([sample["image"] for sample in samples])
        rgb = (images.flip(1) if image_format == "BGR" else images).numpy()
        feeds.append(graph_inputs(metadata, rgb, rgb.shape[2:]))
    name = "panoptic" if run.panoptic else "semantic"

    def by_torch(
        network: Callable[[Tensor], Maps], number: int, precision: str = "fp32"
    ) -> NDArray[Any]:
        images = model.preprocess(batches[number])
        with arithmetic(precision, run.device):
            maps = network(images.tensor)
        found = model.postprocess(maps, images.image_sizes, batches[number])
        each = [f["panoptic_seg"][0] if run.panoptic else f["sem_seg"].argmax(0) for f in found]
        return torch.stack(each).numpy()

    def by_engine(compute: Engine, number: int) -> NDArray[Any]:
        return compute(feeds[number])[name]

    plain = plain_precision("precision", "auto", run.device)
    fast = inference.accelerate(model, plain, run.device).network
    programs = {
        "PyTorch": partial(by_torch, model.network),
        "PyTorch, precision=auto": partial(by_torch, fast, precision=plain),
        "PyTorch, compiled": partial(by_torch, torch.compile(model.network)),
        **{program: partial(by_engine, compute) for program, compute in engines(file).items()},
    }
    labels, rows = dict[str, NDArray[Any]](), dict[str, dict[str, float]]()
    for program, predict in programs.items():
        times = []
        try:
            with torch.no_grad():
                for iteration in range(run.warmup + run.iterations):
                    started = time.perf_counter()
                    labels[program] = predict(iteration % len(batches))
                    times.append(1000 * (time.perf_counter() - started))
        except torch._dynamo.exc.TorchDynamoException as error:  # such as without a C++ compiler
            logger.warning("%s is left out: %s", program, one_line(str(error))[:300])
            continue
        rows[program] = summarize(times[run.warmup :], run.settings.batch_size)
        if same:
            rows[program]["other labels"] = float((labels[program] != labels["PyTorch"]).mean())
    result = {
        "machine": describe_device("cpu"),
        "image_size": [height, width],
        "file": file.name,
        "programs": rows,
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "benchmark.json", json.dumps(result, indent=2) + "\n")
    logger.info("%s: %d x %d pixels, fp32\n%s", file, height, width, engines_text(result))
    return {"metrics": {f"{program} ms": row["p50"] for program, row in rows.items()}, **result}


@contextlib.contextmanager
def _timed(laps: dict[str, float], device: torch.device, stage: str) -> Iterator[None]:
    """Note the milliseconds of a stage: by CUDA events on a GPU, by the clock on a CPU."""
    if device.type == "cpu":
        started = time.perf_counter()
        yield
        laps[stage] = 1000 * (time.perf_counter() - started)
        return
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    yield
    end.record()
    end.synchronize()
    laps[stage] = begin.elapsed_time(end)


@torch.no_grad()
def _init_statistics(model: nn.Module, run: Callable[[], Any]) -> None:
    """Set running statistics, in eval mode, to those of the activations of one forward pass.

    Random weights then have activations of healthy size, on which precisions can be compared.
    Scale and shift become random numbers about 1 and 0, as in a trained network; the last
    convolutions are scaled to outputs of standard deviation 1.
    """
    random = torch.Generator().manual_seed(0)
    predictors = {module for name, module in model.named_modules() if name.endswith("predictor")}

    def before(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            x = inputs[0].float()
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(x.mean(dim=(0, 2, 3)))
            module.running_var.copy_(x.var(dim=(0, 2, 3), correction=0) + 1e-3)
            if module.affine:
                module.weight.copy_(1 + 0.1 * torch.randn(module.weight.shape, generator=random))
                module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=random))

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        if module in predictors and isinstance(module, nn.Conv2d):
            scale = 1 / output.std(correction=0).clamp(min=1e-6)
            module.weight.mul_(scale)
            return output * scale
        return None

    with register_module_forward_pre_hook(before), register_module_forward_hook(after):
        run()
