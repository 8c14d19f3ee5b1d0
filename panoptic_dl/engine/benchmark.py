"""mode=benchmark: where the time of inference goes, stage by stage."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from panoptic_dl.environment import describe_device
from panoptic_dl.loggers.interface import Logger
from panoptic_dl.postprocess.reference import detectron2_segmentations
from panoptic_dl.report.benchmark import benchmark_text, draw_stages, summarize
from panoptic_dl.weights.load import load_model

from . import memory
from .calibrate import calibrate
from .effect import Effect, effect_of
from .inference import InferenceOptions, Maps, arithmetic, count_parameters, prepare_network
from .loggers import tell_of_figures
from .stopwatch import Stopwatch

logger = logging.getLogger(__name__)

STAGES = ("load and decode", "host to device", "network", "post-processing")


class Scenes(Protocol):
    """What the benchmark looks at; see `panoptic_dl.data.benchmark_scenes`."""

    size: tuple[int, int]

    def __len__(self) -> int: ...
    def record(self, index: int) -> dict[str, Any]: ...
    def maps(self, index: int) -> Any: ...


@dataclass(frozen=True)
class BenchmarkSettings:
    """`conf/benchmark/default.yaml`."""

    batch_size: int
    warmup: int | None  # untimed iterations; None: 10 on a GPU, 1 on the CPU
    iterations: int | None  # timed ones; None: 50 on a GPU, 5 on the CPU
    network_only: bool  # the published BENCHMARK_NETWORK_SPEED
    postprocess: str  # fast | reference (Detectron2's function)

    def __post_init__(self) -> None:
        for name, lowest in (("batch_size", 1), ("warmup", 0), ("iterations", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < lowest):
                raise ValueError(f"benchmark.{name}={value} must be a number of at least {lowest}")
        if self.postprocess not in ("fast", "reference"):
            raise ValueError(
                f"benchmark.postprocess={self.postprocess} is unknown; choose fast or reference"
            )


def benchmark(
    *,
    device: str,
    model: Any,
    scenes: Scenes,
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    weights: str | None,
    run_dir: str,
    name: str,
    settings: dict[str, Any],
    image_format: str = "RGB",
    loggers: dict[str, Logger] | None = None,
) -> dict[str, Any]:
    """Time each stage of inference on drawn scenes; print a table, save JSON and a picture.

    The network sees images; post-processing gets what a trained network would say of them, because
    the output of random weights has no instances.

    Args:
        device: `cuda` or `cpu`.
        model: `PanopticDeepLab` or `DeepLabV3Plus`.
        scenes: images on disk, and the maps of a trained network for them.
        mapper: from a dataset record to the model's input.
        weights: optional, for speed does not depend on them.
        name: of the row, in tables.
        settings: fields of `BenchmarkSettings` and of `InferenceOptions`.
        image_format: channel order of the images, RGB or BGR.
        loggers: are told the figures, by their names; see `Loggers`.

    Raises:
        ValueError: options that cannot be, or that this machine does not have.
    """
    numbers = BenchmarkSettings(**_pick(settings, BenchmarkSettings))
    options = InferenceOptions(**_pick(settings, InferenceOptions))
    place = torch.device(device)
    options.check(place)
    if comm.get_world_size() > 1:
        raise ValueError("mode=benchmark measures one process: drop launch.num_gpus and the like")
    model.to(place).eval()
    run = _Run(model, scenes, mapper, numbers, options, place)
    if weights is not None:
        load_model(model, weights, image_format)
    else:
        calibrate(model, lambda: model.network(run.images[:1]))
    macs = run.count_macs()
    effect = run.apply_options()
    parameters = count_parameters(model)
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
        "stages": {stage: summarize(values, numbers.batch_size) for stage, values in times.items()},
        "parameters": parameters,
        "GMACs": macs / 1e9,
        "GMACs_convention": "one multiplication with one addition; convolutions and matrix products"
        " of backbone and heads, for one image (torch.utils.flop_counter, halved)",
        **peaks,
        "effect": None if effect is None else effect.as_dict(),
    }
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    draw_stages([result], folder / "benchmark.png")
    logger.info("%s", benchmark_text(result))
    logger.info("Saved %s and benchmark.png", folder / "benchmark.json")
    p50 = {f"{stage} ms": figures["p50"] for stage, figures in result["stages"].items()}
    metrics = {"total ms": p50.pop("total ms"), **p50}
    more = {"parameters": parameters, "GMACs": macs / 1e9}
    more |= {name: value for name, value in peaks.items() if value is not None}
    tell_of_figures(loggers, folder, "benchmark", metrics | more, [folder / "benchmark.png"])
    return {"metrics": metrics, **result}


def _pick(settings: dict[str, Any], kind: type) -> dict[str, Any]:
    return {field.name: settings[field.name] for field in fields(kind)}


class _Run:
    """One benchmark under way."""

    def __init__(
        self,
        model: Any,
        scenes: Scenes,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        numbers: BenchmarkSettings,
        options: InferenceOptions,
        device: torch.device,
    ) -> None:
        self.model, self.scenes, self.mapper = model, scenes, mapper
        self.numbers, self.options, self.device = numbers, options, device
        on_gpu = device.type == "cuda"
        self.warmup = (10 if on_gpu else 1) if numbers.warmup is None else numbers.warmup
        self.iterations = numbers.iterations or (50 if on_gpu else 5)
        self.panoptic = hasattr(model, "segment")
        if numbers.postprocess == "reference":
            if not self.panoptic:
                raise ValueError(
                    "benchmark.postprocess=reference swaps the grouping of pixels, which "
                    "task=semantic has none of: drop it"
                )
            model.segment = detectron2_segmentations
        self.network = model.network
        self.images = model.preprocess(self.load(0)).tensor

    def load(self, iteration: int) -> list[dict[str, Any]]:
        """Read and decode the images of a batch."""
        first = iteration * self.numbers.batch_size
        return [self.mapper(self.scenes.record(first + i)) for i in range(self.numbers.batch_size)]

    @torch.no_grad()
    def count_macs(self) -> float:
        """Multiplications with additions of the network, for one image."""
        with FlopCounterMode(display=False) as counter, arithmetic(InferenceOptions(), self.device):
            self.network(self.images[:1])
        return counter.get_total_flops() / 2

    @torch.no_grad()
    def apply_options(self) -> Effect | None:
        """Change the network; say what that does to its output (None: nothing was changed)."""
        if self.options == InferenceOptions():
            return None
        with arithmetic(InferenceOptions(), self.device):
            before = tuple(maps.clone() for maps in self.network(self.images))
        self.network = prepare_network(self.model, self.options, self.images)
        with arithmetic(self.options, self.device):
            after = self.network(self.images)
        sizes = [self.scenes.size] * self.numbers.batch_size
        return effect_of(self.model, before, after, sizes, panoptic=self.panoptic)

    @torch.no_grad()
    def time_stages(self) -> dict[str, list[float]]:
        """Milliseconds of every iteration by stage, and in `total`."""
        times: dict[str, list[float]] = {}
        for iteration in range(self.warmup + self.iterations):
            laps = self.one_iteration(iteration)
            if iteration >= self.warmup:
                for stage, milliseconds in laps.items():
                    times.setdefault(stage, []).append(milliseconds)
        return times

    @torch.no_grad()
    def peak_memory(self) -> dict[str, float | None]:
        """Peaks in MiB of one more iteration, without what making the scene's maps takes."""
        peaks = []

        def peak() -> None:
            on_device = memory.peak_device(self.device) if self.device.type == "cuda" else None
            peaks.append((on_device, memory.peak_host()))

        self.one_iteration(0, before_stages=lambda: memory.start(self.device), after_stages=peak)
        on_device, on_host = zip(*peaks, strict=True)
        return {
            "peak_device_MiB": None if on_device[0] is None else max(on_device),
            "peak_host_MiB": max(on_host),
        }

    def one_iteration(
        self,
        iteration: int,
        before_stages: Callable[[], Any] = lambda: None,
        after_stages: Callable[[], Any] = lambda: None,
    ) -> dict[str, float]:
        """Milliseconds of each stage, and in total.

        The two functions are called around the stages up to the network, and around the rest.
        """
        before_stages()
        watch = Stopwatch(torch.device("cpu"))
        samples = self.load(iteration)
        watch.lap(STAGES[0])
        laps = watch.milliseconds()

        watch = Stopwatch(self.device)
        samples = [s | {"image": s["image"].to(self.device)} for s in samples]
        watch.lap(STAGES[1])
        images = self.model.preprocess(samples)
        with arithmetic(self.options, self.device):
            maps = self.network(images.tensor)
        watch.lap(STAGES[2])
        laps |= watch.milliseconds()
        after_stages()

        if not self.numbers.network_only:
            if self.panoptic:
                maps = self.trained_maps(iteration, maps)
            before_stages()
            watch = Stopwatch(self.device)
            self.model.postprocess(maps, images.image_sizes, samples)
            watch.lap(STAGES[3])
            laps |= watch.milliseconds()
            after_stages()
        return laps | {"total": sum(laps.values())}

    def trained_maps(self, iteration: int, maps: Maps) -> Maps:
        """Of the shape and type of the network's, but those of the scenes. Not timed."""
        first = iteration * self.numbers.batch_size
        scenes = [self.scenes.maps(first + i) for i in range(self.numbers.batch_size)]
        num_classes = maps[0].shape[1]
        height, width = maps[1].shape[2:]
        stride = width // maps[0].shape[3]  # 1, or that of the head where no logits are needed

        def stack(parts: list[Tensor], like: Tensor) -> Tensor:
            padded = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in parts]
            return torch.stack(padded).to(like)

        logits = stack([scene.logits(num_classes) for scene in scenes], maps[0])
        logits = logits[:, :, ::stride, ::stride].contiguous()
        assert logits.shape == maps[0].shape
        centers = stack([scene.center for scene in scenes], maps[1])
        offsets = stack([scene.offset for scene in scenes], maps[2])
        return logits, centers, offsets
