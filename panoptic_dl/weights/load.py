"""Load a weights file completely, or say why not.

How a file's tensors and a network's parameters agree, name by name.

Whether a run feeds the images that a weights file expects.

What training starts from: given weights, or none although the recipe expects them.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable
from panoptic_dl.core.run_folder import find_weights
from panoptic_dl.weights.names import (
    BACKBONE,
    BESIDE,
    STATISTICS,
    Renamed,
    not_finite,
    rename,
    stands_for,
)
from panoptic_dl.weights.read import WeightsFile, read_file, read_weights

SHOWN = 4


@dataclass(frozen=True)
class Coverage:
    """Names of a network's parameters and buffers held against those of a file.

    Batch counters (`num_batches_tracked`) are bookkeeping that no figure depends on: files from
    before torch 0.4.1 have none, frozen layers want none. They are counted, never at fault.
    """

    matched: tuple[str, ...]  # in both, of one shape
    missing: tuple[str, ...]  # the file lacks them
    unexpected: tuple[str, ...]  # the network lacks them
    mismatched: tuple[str, ...]  # "name (shape in the file) for (shape in the network)"
    dropped: dict[str, int]  # parts that are left out on purpose: name -> number of tensors
    counters_missing: int
    counters_unexpected: int
    numbers_matched: int  # values of all matched tensors, counters aside
    numbers_wanted: int  # values of all tensors that the network has, counters aside

    @property
    def percent(self) -> float:
        """Share of the network's values (parameters and running statistics) that the file has."""
        return 100 * self.numbers_matched / self.numbers_wanted if self.numbers_wanted else 100.0

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """What makes the file unfit, by kind; empty where it fits."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.mismatched,
        }
        return {kind: names for kind, names in kinds.items() if names}

    def lines(self, shown: int = SHOWN) -> list[str]:
        """The report, a fact a line; at most `shown` names of a kind."""
        lines = [f"{len(self.matched)} matched: {self.percent:.2f} % of the values"]
        lines += [
            f"{len(names)} {kind}: {_first(names, shown)}" for kind, names in self.faults.items()
        ]
        lines += [
            f"dropped: {printable(part)} ({count} tensors)" for part, count in self.dropped.items()
        ]
        if self.counters_missing:
            lines.append(f"{self.counters_missing} batch counters missing: they stay at 0")
        if self.counters_unexpected:
            lines.append(f"{self.counters_unexpected} batch counters that nothing counts: ignored")
        return lines


def compare(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    dropped: Mapping[str, int] | None = None,
) -> Coverage:
    """Hold a file's `tensors` against the state dict `wanted`; nothing is changed.

    A tensor of whole numbers in the place of real ones, or the reverse, is a mismatch like a wrong
    shape; so is one of numbers that torch may not be able to copy, which would fail half-way.
    """
    matched, mismatched, numbers = [], [], 0
    for name, own in wanted.items():
        if name not in tensors:
            continue
        other = tensors[name]
        if other.shape != own.shape:
            mismatched.append(f"{name} {tuple(other.shape)[:8]} for {tuple(own.shape)}")
        elif not stands_for(other.dtype, own.dtype):
            mismatched.append(f"{name} {other.dtype} for {own.dtype}")
        elif not is_counter(name):
            matched.append(name)
            numbers += own.numel()
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    return Coverage(
        matched=tuple(matched),
        missing=tuple(name for name in missing if not is_counter(name)),
        unexpected=tuple(name for name in unexpected if not is_counter(name)),
        mismatched=tuple(mismatched),
        dropped=dict(dropped or {}),
        counters_missing=sum(map(is_counter, missing)),
        counters_unexpected=sum(map(is_counter, unexpected)),
        numbers_matched=numbers,
        numbers_wanted=sum(math.prod(v.shape) for n, v in wanted.items() if not is_counter(n)),
    )


def is_counter(name: str) -> bool:
    """Whether a name is that of a batch counter."""
    return name.endswith("num_batches_tracked")


def _first(names: tuple[str, ...], shown: int) -> str:
    return ", ".join(map(printable, names[:shown])) + (", ..." if len(names) > shown else "")


def check_pixels(
    model: nn.Module,
    file: WeightsFile,
    statistics: dict[str, tuple[float, ...]],
    image_format: str,
) -> None:
    """Hold what the file says of its images against the run's.

    Args:
        model: has `pixel_mean` and `pixel_std`, a number per channel; else nothing is compared.
        statistics: those that an old Detectron2 saved among the tensors.
        image_format: channel order of the run's images, RGB or BGR.

    Raises:
        WeightsError: the file expects another channel order. Other statistics are a loud warning,
            for a network can be trained on from them.
    """
    said: dict[str, Any] = dict(statistics)
    if file.provenance:
        said |= {name: getattr(file.provenance, name) for name in STATISTICS}
        expected = file.provenance.image_format
        if expected not in ("RGB", "BGR"):
            logger.warning(
                "weights=%s says that it expects %s images, which is neither RGB nor BGR: this is "
                "ignored, and the run feeds %s",
                file.path,
                printable(expected),
                image_format,
            )
        elif expected != image_format:
            raise WeightsError(
                f"weights={file.path} expects {expected} images, this run feeds {image_format}: "
                f"set dataset.image_format={expected}, or take weights for the other order"
            )
    for name, theirs in said.items():
        own = getattr(model, name, None)
        if own is None:
            continue
        ours = tuple(float(value) for value in own.flatten())
        if len(ours) == len(theirs) and all(map(_close, ours, theirs)):
            continue
        key = "pixels." + name.removeprefix("pixel_")
        for line in (
            f"weights={file.path} was trained with another {name} than this run uses:",
            f"    the file: {list(theirs)}",
            f"    this run: {list(ours)}",
            f"Figures will be wrong unless that is meant. To use the file's: {key}={list(theirs)}",
        ):
            logger.warning(line)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4)


__all__ = ["WeightsError", "load_model", "load_model_or_backbone", "read_weights"]

logger = logging.getLogger(__name__)


def load_model(model: nn.Module, path: str | Path, image_format: str = "RGB") -> Coverage:
    """Load every parameter and buffer of `model` from a file, or from a run folder of ours.

    Args:
        image_format: channel order of the images that the run feeds, RGB or BGR.

    Returns:
        How the file's tensors and the model agree.

    Raises:
        WeightsError: a name is missing or unexpected, or a shape differs; the message lists them.
            Or the file cannot be read, or is for another channel order.
    """
    file, renamed = _read(model, path, image_format)
    return _load(model, renamed.tensors, renamed.dropped, f"weights={file.path}")


def load_model_or_backbone(
    model: nn.Module, path: str | Path, image_format: str = "RGB"
) -> Coverage:
    """Load a whole model, or only its backbone from a file that covers all of the backbone.

    Parts of a classifier or a head that a backbone's file has beside it are left out, and logged.

    Args:
        image_format: as for `load_model`.

    Returns:
        How the file's tensors and the model, or its backbone, agree.

    Raises:
        WeightsError: the file covers neither, cannot be read, or is for another channel order.
    """
    file, renamed = _read(model, path, image_format)
    if is_whole_model(renamed.tensors):
        return _load(model, renamed.tensors, renamed.dropped, f"weights={file.path}")
    backbone = model.get_submodule("backbone")
    tensors, dropped = split_backbone(backbone, renamed)
    return _load(backbone, tensors, dropped, f"weights={file.path} (backbone)")


def is_whole_model(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is a backbone by its prefix, and more beside it."""
    with_prefix = [name.startswith(BACKBONE) for name in tensors]
    return any(with_prefix) and not all(with_prefix)


def split_backbone(
    backbone: nn.Module, renamed: Renamed
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A backbone's tensors by its own names, and what stands beside it: heads, a classifier.

    A part is a name up to its first dot. What is in no part that is known to stand beside a
    backbone stays in, and is unexpected: such a file is of another architecture.
    """
    parts = {name.split(".")[0] for name in backbone.state_dict()}
    prefix = BACKBONE if any(name.startswith(BACKBONE) for name in renamed.tensors) else ""
    tensors: dict[str, Tensor] = {}
    dropped = dict(renamed.dropped)
    for name, tensor in renamed.tensors.items():
        own = name.removeprefix(prefix)
        part = own.split(".")[0]
        known = part in BESIDE and part not in parts
        if known or (prefix and name.split(".")[0] in BESIDE):
            key = f"{part}, {BESIDE[part]}"
            dropped[key] = dropped.get(key, 0) + 1
        else:
            tensors[own if own not in tensors else name] = tensor
    return tensors, dropped


def _read(model: nn.Module, path: str | Path, image_format: str) -> tuple[WeightsFile, Renamed]:
    file = read_file(find_weights(path))
    try:
        renamed = rename(file.tensors)
    except WeightsError as error:
        raise WeightsError(f"weights={file.path}: {error}") from None
    first, *others = file.lines()
    logger.info("weights=%s", first)
    for line in others:
        logger.info("    %s", line)
    if renamed.origin is not None:
        logger.info("    names are those of %s", renamed.origin.name)
    check_pixels(model, file, renamed.statistics, image_format)
    return file, renamed


def _load(
    module: nn.Module, tensors: Mapping[str, Tensor], dropped: Mapping[str, int], source: str
) -> Coverage:
    coverage = compare(module.state_dict(), tensors, dropped)
    if coverage.faults:
        raise WeightsError(_refusal(coverage, source))
    if bad := not_finite(tensors, coverage.matched):
        logger.warning(
            "%s holds infinite values or NaN in %d tensors, such as %s: it comes from a training "
            "that failed; take another checkpoint",
            source,
            len(bad),
            printable(bad[0]),
        )
    module.load_state_dict(dict(tensors), strict=False)
    logger.info("Loaded %s: %s", source, "; ".join(coverage.lines()))
    return coverage


def _refusal(coverage: Coverage, source: str) -> str:
    return (
        f"{source} is of another architecture than the model; nothing was loaded.\n"
        + "".join(f"  {line}\n" for line in coverage.lines())
        + "Choose backbone=, head=, dataset= and task= as the weights were trained; to start from "
        "the backbone of a whole model, take it out with scripts/convert_weights.py"
    )


def start_from(
    model: nn.Module,
    weights: str | None,
    expected: Mapping[str, Any] | None,
    image_format: str = "RGB",
) -> None:
    """Load `weights` into `model` or its backbone; without any, say what that means and go on.

    Args:
        expected: what the recipe starts from: `file`, the name of the pre-trained file, and
            `source`, where it comes from. None: training from random weights is as it should be.
        image_format: channel order of the run's images, RGB or BGR.

    Raises:
        WeightsError: the weights do not fit, or cannot be read.
    """
    if weights is not None:
        load_model_or_backbone(model, weights, image_format)
        return
    if expected is None:
        logger.info("No weights= given: training starts from random weights, as meant")
        return
    for line in (
        "=" * 78,
        "NO PRE-TRAINED WEIGHTS: weights= is not given, training starts from random weights.",
        f"The published figures start from {expected['file']} (ImageNet),",
        f"which comes from {expected['source']}.",
        "Without it expect figures well below the published ones. To use it:",
        f"    python scripts/convert_weights.py {expected['file']} BACKBONE.safetensors",
        "    python run.py ... weights=BACKBONE.safetensors",
        "=" * 78,
    ):
        logger.warning(line)
