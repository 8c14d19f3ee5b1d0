"""mode=benchmark: where the time of inference goes, stage by stage.

Give random weights activations of healthy size, so that precisions can be compared on them.

What an option does to a network's output, so that nobody buys speed blindly.

Legend: N batch, K classes, H W pixels.

Time stages on the device they run on.

Images and network outputs of drawn scenes, for measuring speed without a dataset or weights.

Legend: K classes, H W pixels.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.utils import comm
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panoptic_dl.core import memory
from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.settings import BenchmarkSettings
from panoptic_dl.loggers.base import Logger, Loggers, Run
from panoptic_dl.modes.scene_maps import SceneMaps, scene_maps
from panoptic_dl.postprocess.panoptic import detectron2_segmentations
from panoptic_dl.report.benchmark import benchmark_text, draw_stages, summarize
from panoptic_dl.train.precision import (
    InferenceOptions,
    Maps,
    arithmetic,
    check_precision,
    prepare_network,
)
from panoptic_dl.weights.load import load_model


def calibrate(model: nn.Module, run: Callable[[], Any]) -> None:
    """Set running statistics, in eval mode, to those of the activations of one forward pass.

    Layer by layer, each after the ones before it. Scale and shift of the normalisations become
    random numbers about 1 and 0, as in a trained network; the last convolutions, which start at a
    thousandth of the usual size, are scaled to outputs of standard deviation 1.
    """
    random = torch.Generator().manual_seed(0)
    handles = []

    def before_norm(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        x = inputs[0].float()
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(x.mean(dim=(0, 2, 3)))
        module.running_var.copy_(x.var(dim=(0, 2, 3), correction=0) + 1e-3)
        if module.affine:
            module.weight.copy_(1 + 0.1 * torch.randn(module.weight.shape, generator=random))
            module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=random))

    def after_predictor(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        scale = 1 / output.std(correction=0).clamp(min=1e-6)
        module.weight.mul_(scale)
        return output * scale

    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(before_norm))
        elif isinstance(module, nn.Conv2d) and name.rpartition(".")[2].endswith("predictor"):
            handles.append(module.register_forward_hook(after_predictor))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Effect:
    """Differences from the float32 network that nothing was changed in, over a batch."""

    max_logit_difference: float
    logit_spread: float  # standard deviation of the logits: what the difference compares with
    changed_classes: float  # share of pixels whose most likely class is another, 0..1
    changed_panoptic: float | None  # share of pixels whose panoptic id is; None: semantic task

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


def effect_of(
    model: Any, before: Maps, after: Maps, sizes: Sequence[tuple[int, int]], *, panoptic: bool
) -> Effect:
    """Compare two outputs of `model.network` for the same images of `sizes` (H, W)."""
    logits, changed = before[0].float(), after[0].float()
    samples: list[dict[str, Any]] = [{} for _ in sizes]
    share = None
    if panoptic:
        pairs = zip(
            model.postprocess(before, sizes, samples),
            model.postprocess(after, sizes, samples),
            strict=True,
        )
        shares = [
            (a["panoptic_seg"][0] != b["panoptic_seg"][0]).float().mean().item() for a, b in pairs
        ]
        share = sum(shares) / len(shares)
    return Effect(
        max_logit_difference=(logits - changed).abs().max().item(),
        logit_spread=logits.std().item(),
        changed_classes=(logits.argmax(1) != changed.argmax(1)).float().mean().item(),
        changed_panoptic=share,
    )


class Stopwatch:
    """Milliseconds between laps: CUDA events on a GPU, the clock on a CPU.

    A lap on a GPU is a mark in its queue; nothing waits until `milliseconds` is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.marks = [self._mark()]

    def _mark(self) -> "torch.cuda.Event | float":
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        return time.perf_counter()

    def lap(self, name: str) -> None:
        """End the stage that began at the lap before, or when the watch was made."""
        self.marks.append(self._mark())
        self.names.append(name)

    def milliseconds(self) -> dict[str, float]:
        """Of each stage; waits for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return {
            name: _between(start, stop)
            for name, start, stop in zip(self.names, self.marks, self.marks[1:], strict=False)
        }


def _between(start: "torch.cuda.Event | float", stop: "torch.cuda.Event | float") -> float:
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float)
        assert isinstance(stop, float)
        return 1000 * (stop - start)
    return float(start.elapsed_time(stop))


logger = logging.getLogger(__name__)

STAGES = ("load and decode", "host to device", "network", "post-processing")


class Scenes(Protocol):
    """What the benchmark looks at; see `panoptic_dl.modes.benchmark`."""

    size: tuple[int, int]

    def __len__(self) -> int: ...
    def record(self, index: int) -> dict[str, Any]: ...
    def maps(self, index: int) -> Any: ...


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
        settings: fields of `BenchmarkSettings`.
        image_format: channel order of the images, RGB or BGR.
        loggers: are told the figures, by their names; see `Loggers`.

    Raises:
        ValueError: options that cannot be, or that this machine does not have.
    """
    numbers = BenchmarkSettings(**settings)
    options = InferenceOptions(
        **{each.name: settings[each.name] for each in fields(InferenceOptions)}
    )
    place = torch.device(device)
    check_precision("benchmark.precision", options.precision, place)
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
    listening = Loggers(loggers)
    listening.start(Run(folder, "benchmark"))
    listening.measured(metrics | more, [folder / "benchmark.png"])
    listening.finish("finished", 0)
    return {"metrics": metrics, **result}


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

        self.one_iteration(
            0, before_stages=lambda: memory.reset_peaks(self.device), after_stages=peak
        )
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


class BenchmarkScenes:
    """Scenes of one size: files to read and decode, and what a trained network would say of them.

    Args:
        size: (H, W) in pixels.
        num_scenes: how many different ones there are.
        num_things: things drawn in each; about six of seven have a centre of their own.
        num_classes, thing_ids: contiguous category ids; the first eight that are no things are the
            stuff. Where all are things, some are the ground as well; where none is, none is drawn.
        sigma: of the peaks of the heatmap, in pixels.
        file_format: `png` or `jpg`, as the dataset has its images.
        seed: of the scenes.

    Raises:
        ValueError: of a number or format that makes no scene.
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        num_scenes: int,
        num_things: int,
        num_classes: int,
        thing_ids: Sequence[int],
        sigma: float,
        file_format: str,
        seed: int | None = 0,
    ) -> None:
        if len(size) != 2 or min(size) < 32:
            raise ValueError(f"benchmark.image_size={list(size)} must be [H, W], both at least 32")
        if file_format not in ("png", "jpg"):
            raise ValueError(f"file_format={file_format} is unknown; choose png or jpg")
        self.size = (int(size[0]), int(size[1]))
        self.num_scenes = num_scenes
        self.num_things = num_things if len(thing_ids) else 0
        self.num_classes = num_classes
        self.thing_ids = tuple(thing_ids)
        stuff = [i for i in range(num_classes) if i not in set(thing_ids)]
        self.stuff_ids = (stuff or list(thing_ids))[:8]
        self.sigma = sigma
        self.seed = seed or 0
        # The folder goes when the scenes do.
        self._folder = tempfile.TemporaryDirectory(prefix="panoptic_dl_scenes_")
        self._records = [self._write(i, file_format) for i in range(num_scenes)]

    def __len__(self) -> int:
        return self.num_scenes

    def record(self, index: int) -> dict[str, Any]:
        """File name, size and id of an image in Detectron2's dataset format."""
        return dict(self._records[index % len(self)])

    def maps(self, index: int) -> SceneMaps:
        """What a trained network would say of that image."""
        return _scene(
            self.size,
            self.num_things,
            self.thing_ids,
            tuple(self.stuff_ids),
            self.sigma,
            self.seed + index % self.num_scenes,
        )

    def _write(self, index: int, file_format: str) -> dict[str, Any]:
        file = Path(self._folder.name, f"scene_{index:03d}.{file_format}")
        Image.fromarray(_paint(self.maps(index), self.num_classes, self.seed + index)).save(file)
        height, width = self.size
        return {"file_name": str(file), "height": height, "width": width, "image_id": index}


@lru_cache(maxsize=8)
def _scene(
    size: tuple[int, int],
    num_things: int,
    thing_ids: tuple[int, ...],
    stuff_ids: tuple[int, ...],
    sigma: float,
    seed: int,
) -> SceneMaps:
    return scene_maps(
        size, num_things, thing_ids=thing_ids, stuff_ids=stuff_ids, sigma=sigma, seed=seed
    )


def _paint(maps: SceneMaps, num_classes: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a colour for each class, shaded by the offsets, with grain as cameras have.

    The grain matters: without it a PNG is decoded in a fraction of the time of a photograph's.
    """
    random = np.random.default_rng(seed)
    colors = random.integers(30, 226, (num_classes, 3))[maps.sem_seg[0].numpy()].astype(np.float32)
    shade = (maps.offset.sum(0).numpy() / 8).clip(-30, 30)[..., None]
    grain = random.normal(0, 4, colors.shape).astype(np.float32)
    painted: np.ndarray = (colors + shade + grain).clip(0, 255).astype(np.uint8)
    return painted
