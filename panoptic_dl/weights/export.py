"""Make of a run's checkpoint the file that one would publish."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from panoptic_dl.whole_files import sha256_of

from .coverage import compare
from .errors import WeightsError
from .figures import figures, figures_of_average
from .load import load_model
from .printable import printable
from .provenance import Provenance
from .read import WeightsFile, read_file
from .run_folder import AVERAGE as AVERAGE_FILE
from .write import write_weights

GIT = "git.txt"
AVERAGED = " (moving average of the weights)"
HASH_DIGITS = 8


@dataclass(frozen=True)
class Checkpoint:
    """The parameters of a checkpoint, without the state of its training."""

    file: WeightsFile
    tensors: dict[str, Tensor]
    iteration: int  # finished iterations; -1: the file does not say
    averaged: bool = False  # whether they are the moving average of the weights


def open_checkpoint(path: Path, *, ema: bool = False) -> Checkpoint:
    """Read a checkpoint's parameters; with `ema`, their moving averages.

    Raises:
        WeightsError: the file cannot be read, or has no averages.
    """
    file = read_file(path)
    tensors = file.tensors
    if ema:
        average = file.beside.get("ema")
        averages = average.get("model") if isinstance(average, Mapping) else None
        if not isinstance(averages, Mapping) or not averages:
            raise WeightsError(f"{path} holds no averaged weights (`ema`): leave out --ema")
        if not all(isinstance(value, Tensor) for value in averages.values()):
            raise WeightsError(f"{path}: `ema` holds something else than tensors")
        tensors = {str(name): value.detach() for name, value in averages.items()}
    averaged = ema or path.name == AVERAGE_FILE
    return Checkpoint(file, tensors, _iteration(file.beside), averaged)


def export(
    checkpoint: Checkpoint,
    model: nn.Module,
    folder: Path,
    *,
    row: str,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    image_format: str,
    run: Path,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Path:
    """Write `<folder>/<row>-<first digits of its SHA-256>.safetensors` and prove that it loads.

    The same checkpoint gives the same file, and so the same name. A moving average is named
    `<row>-ema-<...>`. Figures are those of these very weights, or none.

    Args:
        model: of the run's config, of any values: the file is loaded into it.
        row: dataset_task_backbone_head.
        run: the run's folder; git revision and figures are read there.

    Raises:
        WeightsError: the checkpoint is not of this model, or the file is there already.
        OSError: the disk is full, or does not keep what it is given.
    """
    coverage = compare(model.state_dict(), checkpoint.tensors)
    if coverage.faults:
        raise WeightsError(
            f"{checkpoint.file.path} is not of the model in its run's config:\n  "
            + "\n  ".join(coverage.lines())
        )
    file = checkpoint.file
    metrics = figures(run, file.path.name, file.sha256)
    if checkpoint.averaged:
        metrics = figures_of_average(run, checkpoint.iteration)
    changed = datetime.fromtimestamp(checkpoint.file.path.stat().st_mtime, timezone.utc)
    provenance = Provenance(
        source_file=checkpoint.file.path.name,
        source_sha256=checkpoint.file.sha256,
        source_size=checkpoint.file.size,
        date=changed.isoformat(timespec="seconds"),
        licence=licence,
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin="a run of panoptic-dl",
        architecture=row,
        pixel_mean=tuple(float(value) for value in pixel_mean),
        pixel_std=tuple(float(value) for value in pixel_std),
        image_format=image_format,
        percent=coverage.percent,
        row=row + (AVERAGED if checkpoint.averaged else ""),
        iteration=checkpoint.iteration,
        revision=revision(run / GIT),
        metrics=metrics,
    )
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder}; make it, or name another with --to")
    with tempfile.TemporaryDirectory(prefix=".unverified-", dir=folder) as fresh:
        unnamed = Path(fresh) / "unverified.safetensors"  # in the way of nobody's file
        write_weights(unnamed, checkpoint.tensors, provenance)
        load_model(model, unnamed, image_format)
        own = model.state_dict()
        wrong = [n for n, t in checkpoint.tensors.items() if n in own and not _same(own[n], t)]
        if wrong:
            raise OSError(f"{unnamed}: {printable(wrong[0])} is another after loading")
        name = f"{row}-ema" if checkpoint.averaged else row
        target = folder / f"{name}-{sha256_of(unnamed)[:HASH_DIGITS]}.safetensors"
        if target.exists() and not overwrite:
            raise WeightsError(f"{target} exists; it is this very file, or allow --overwrite")
        return unnamed.replace(target)


def revision(git: Path) -> str:
    """The git revision that a run noted last, and whether there were local changes; "" if none."""
    if not git.is_file():
        return ""
    last = git.read_text(errors="replace").rpartition("$ git rev-parse HEAD\n")[2]
    head, _, rest = last.partition("\n")
    status = rest.partition("$ git status --short\n")[2].partition("$ git diff HEAD")[0]
    known = len(head) in (40, 64) and all(c in "0123456789abcdef" for c in head)
    return head + (" with local changes" if status.strip() else "") if known else ""


def _iteration(beside: Mapping[str, Any]) -> int:
    """Checkpoints count from 0 the iteration that was finished last."""
    trainer = beside.get("trainer")
    for place in (beside, trainer if isinstance(trainer, Mapping) else {}):
        if type(place.get("iteration")) is int:
            return place["iteration"] + 1
    return -1


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a.cpu().double().nan_to_num() == b.double().nan_to_num()).all())
