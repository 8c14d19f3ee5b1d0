"""Make of a run's checkpoint the file that one would publish.

Take the backbone out of a file of any known origin, and write it under our names.

Write weights with their provenance, whole or not at all.

The figures that were measured with the very weights that are exported, or none.
"""

import json
import math
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import atomic_write, flush, printable, sha256_of
from panoptic_dl.core.run_folder import AVERAGE as AVERAGE_FILE
from panoptic_dl.core.run_folder import MANIFEST
from panoptic_dl.weights.load import Coverage, compare, is_counter, load_model, split_backbone
from panoptic_dl.weights.names import BACKBONE, KNOWN, Renamed, not_finite, rename
from panoptic_dl.weights.read import LONGEST_METRICS, Provenance, WeightsFile, read_file

KINDS = (".safetensors", ".pth", ".pkl")
AUTHOR = "panoptic-dl"


def check_target(path: Path, overwrite: bool) -> None:
    """Raise before work is done for a file that cannot be written.

    Raises:
        WeightsError: an unknown kind of file, a missing folder, or a file that is there already.
    """
    if path.suffix not in KINDS:
        raise WeightsError(f"{path}: write one of {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists; name another file, or allow it with --overwrite")


def write_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    overwrite: bool = False,
) -> None:
    """Write a file that `read_file` and, with these names, Detectron2 read.

    It is written beside its place, flushed to disk, read again, held against what was to be
    written, and renamed: a file of this name is whole.

    Args:
        path: its ending decides the kind: .safetensors, .pth, or the .pkl of Detectron2.
        tensors: by the names that the model has, such as `backbone.conv1.weight`.
        overwrite: replace a file that is there.

    Raises:
        WeightsError: the file cannot be of this kind, is there already, or a tensor has a type that
            the kind cannot hold.
        OSError: the disk is full or may not be written; nothing is left behind.
    """
    path = Path(path)
    check_target(path, overwrite)
    if odd := [name for name, tensor in tensors.items() if tensor.dtype not in KNOWN]:
        raise WeightsError(
            f"{path}: {printable(odd[0])} has numbers of {tensors[odd[0]].dtype}, which not every "
            "reader knows; make them torch.float32 first"
        )
    # Clones: a view would take all of the tensor behind it along.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            temporary.touch()
            rights = temporary.stat().st_mode
            _write(temporary, plain, provenance)
            temporary.chmod(rights)  # safetensors makes files that only their owner may read
            flush(temporary)
            verify(temporary, plain)
    except (OSError, RuntimeError, SafetensorError) as error:  # what each kind says of a full disk
        raise OSError(
            f"cannot write {path}: {error}. No part of it is left; free some space or name another "
            "folder"
        ) from error


def verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a file again and hold every value against what was to be written.

    Raises:
        OSError: they differ: a disk that does not keep what it is given.
    """
    again = read_file(path).tensors
    same = again.keys() == tensors.keys() and all(
        again[name].dtype == tensor.dtype
        and torch.equal(again[name].nan_to_num(), tensor.nan_to_num())
        for name, tensor in tensors.items()
    )
    if not same:
        raise OSError(f"{path} does not hold what was written; write it to another disk")


def _write(path: Path, tensors: dict[str, Tensor], provenance: Provenance) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt", **provenance.header()})
        _sort_header(path)
        return
    content: dict[str, Any] = {"model": tensors, "provenance": provenance.plain()}
    if path.suffix == ".pth":
        torch.save(content, path)
        return
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    except TypeError as error:  # bfloat16
        raise WeightsError(f"{path}: numpy has no such numbers ({error}); write .pth") from error
    # Detectron2 matches names by likeness unless it is told that they are exact.
    content |= {"model": arrays, "__author__": AUTHOR, "matching_heuristics": False}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def _sort_header(path: Path) -> None:
    """safetensors writes its texts in any order: sort them, so that equal content is equal files.

    The format: 8 bytes with the header's length, the header in JSON, the numbers.
    """
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))  # spaces, as the format allows


RESULTS, AVERAGE_RESULTS = "results.json", "ema/results.json"
AVERAGE = "ema/"  # begins the names of the average's figures beside those of the raw weights


def figures(run: Path, name: str, sha256: str) -> str:
    """JSON of the figures of a checkpoint's raw weights; "" where it was not evaluated.

    They are those that the run noted for a file of these contents: `model_final.pth` is a second
    name of the newest numbered checkpoint, and the evaluation may have been noted for that one.

    Raises:
        WeightsError: the manifest is damaged, or the file is not the one that the run wrote.
    """
    files = _read(run / MANIFEST).get("files", {})
    if not isinstance(files, Mapping) or not all(isinstance(e, Mapping) for e in files.values()):
        raise _damaged(run / MANIFEST, "no list of files")
    written = files.get(name, {}).get("sha256", sha256)
    if written != sha256:
        raise WeightsError(
            f"{run / name} is not the file that the run wrote (SHA-256 differs from "
            f"{MANIFEST}); take another with --checkpoint"
        )
    if "no_result" in _read(run / RESULTS):  # a trial of a few images
        return ""
    same = [files.get(name, {}), *(e for e in files.values() if e.get("sha256") == sha256)]
    found: Any = next((entry["figures"] for entry in same if "figures" in entry), {})
    return _text(run / MANIFEST, found)


def figures_of_average(run: Path, iteration: int) -> str:
    """JSON of the figures of the moving average after so many iterations; "" where there are none.

    `model_ema.pth` does not say of which iteration it is and so has none: the same weights lie in
    `model_final.pth`, with --ema.

    Args:
        iteration: finished iterations; -1: not known.

    Raises:
        WeightsError: the results are damaged.
    """
    summary = _read(run / AVERAGE_RESULTS)
    measured = summary.get("measured")
    at = measured.get("iteration") if isinstance(measured, Mapping) else None
    if type(at) is not int or at != iteration or iteration < 0 or "no_result" in summary:
        return ""
    return _text(run / AVERAGE_RESULTS, summary.get("metrics"))


def _text(file: Path, found: Any) -> str:
    if not isinstance(found, Mapping):
        raise _damaged(file, "its figures are no table")
    kept = {}
    for name, value in found.items():
        if value is None or str(name).startswith(AVERAGE):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _damaged(file, f"{printable(name)} is no number")
        if math.isfinite(value):  # a figure that is not defined is none
            kept[printable(name)] = round(value, 2)
    text = json.dumps(kept) if kept else ""
    while len(text) > LONGEST_METRICS:  # what a reader would cut is no JSON any more
        kept.popitem()
        text = json.dumps(kept)
    return text


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(file, printable(str(error) or "nested too deeply")) from error
    if not isinstance(content, dict):
        raise _damaged(file, "no table")
    return content


def _damaged(file: Path, why: str) -> WeightsError:
    return WeightsError(f"{file} is damaged ({why}); evaluate the run again, or remove it")


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


OWN_NAMES = "panoptic-dl, or names that equal ours"
# What tells the backbones apart: a parameter, and its shape (out, in, kernel height and width).
ARCHITECTURES: dict[str, tuple[str, tuple[int, ...]]] = {
    "xception65": ("block21.sep_conv3.block.pointwise.weight", (2048, 1536, 1, 1)),
    "hrnet18": ("transition1.0.0.weight", (18, 256, 3, 3)),
    "hrnet32": ("transition1.0.0.weight", (32, 256, 3, 3)),
    "hrnet48": ("transition1.0.0.weight", (48, 256, 3, 3)),
}


@dataclass(frozen=True)
class Source:
    """A file that is to be converted: what it holds, and which backbone that is."""

    file: WeightsFile
    renamed: Renamed
    architecture: str  # an option of the group backbone

    @property
    def origin(self) -> str:
        """The row of the table of origins, in words."""
        return self.renamed.origin.name if self.renamed.origin else OWN_NAMES


@dataclass(frozen=True)
class Stated:
    """What the person who converts says of a file; None: not stated."""

    licence: str | None = None
    image_format: str | None = None  # channel order, RGB or BGR


def open_source(path: str | Path, architecture: str | None = None) -> Source:
    """Read a file and find out which backbone it holds.

    Args:
        architecture: an option of the group `backbone`; None: told by one parameter's shape.

    Raises:
        WeightsError: the file cannot be read, or is of none of the known backbones.
    """
    file = read_file(path)
    try:
        renamed = rename(file.tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return Source(file, renamed, architecture or find_architecture(renamed.tensors, path))


def find_architecture(tensors: Mapping[str, Tensor], path: str | Path) -> str:
    """The backbone whose telling parameter is there in its shape.

    Raises:
        WeightsError: there is none.
    """
    for architecture, (name, shape) in ARCHITECTURES.items():
        for full_name in (name, BACKBONE + name):
            if full_name in tensors and tuple(tensors[full_name].shape) == shape:
                return architecture
    raise WeightsError(
        f"{path} is none of {', '.join(ARCHITECTURES)} by its names and shapes (it begins with "
        f"{', '.join(map(printable, list(tensors)[:3]))}); if it is one, say which with --backbone"
    )


def hold_against(source: Source, backbone: nn.Module) -> tuple[dict[str, Tensor], Coverage]:
    """The backbone's tensors by its own names, and the report; `backbone` may be on `meta`."""
    tensors, dropped = split_backbone(backbone, source.renamed)
    return tensors, compare(backbone.state_dict(), tensors, dropped)


def convert(
    source: Source,
    target: str | Path,
    backbone: nn.Module,
    statistics: Mapping[str, Sequence[float]],
    stated: Stated,
    *,
    allow_partial: bool = False,
    overwrite: bool = False,
) -> Provenance:
    """Write the backbone of `source` as `target`, under the names of a whole model here.

    Counters of batches are left out: they start at 0 with the training.

    Args:
        backbone: of the source's architecture; its values do not matter.
        statistics: `pixel_mean` and `pixel_std` that go with it, if the file has none itself.

    Raises:
        WeightsError: a part of the backbone is missing and `allow_partial` is not given, a value is
            not finite, or the target cannot be.
        OSError: the disk is full; nothing is left behind.
    """
    target = Path(target)
    check_target(target, overwrite)
    if target.exists() and target.samefile(source.file.path):
        raise WeightsError(f"{target} is the file that is read; name another one")
    tensors, coverage = hold_against(source, backbone)
    if coverage.faults and not allow_partial:
        raise WeightsError(
            f"{source.file.path} does not fit {source.architecture}: {coverage.percent:.2f} % of "
            "its values are there. Nothing was written. Choose another --backbone, or write what "
            "fits with --allow-partial"
        )
    fitting = {BACKBONE + name: tensors[name] for name in coverage.matched if not is_counter(name)}
    if not fitting:
        raise WeightsError(f"{source.file.path} has nothing of {source.architecture}")
    if bad := not_finite(fitting, fitting):
        raise WeightsError(
            f"{source.file.path} holds infinite values or NaN in {len(bad)} tensors, such as "
            f"{printable(bad[0])}. Nothing was written; get the file anew"
        )
    provenance = describe(source, {**statistics, **source.renamed.statistics}, stated)
    provenance = replace(provenance, percent=coverage.percent)
    write_weights(target, fitting, provenance, overwrite=overwrite)
    return provenance


def describe(
    source: Source, statistics: Mapping[str, Sequence[float]], stated: Stated
) -> Provenance:
    """The provenance of a converted file; what the source itself says of its images stays true.

    Raises:
        WeightsError: another channel order is stated than the source's own provenance says.
    """
    file, before = source.file, source.file.provenance
    order = before.image_format if before else None
    order = order if order in ("RGB", "BGR") else None
    if order and stated.image_format not in (None, order):
        raise WeightsError(
            f"{file.path} says that it expects {order} images: leave out "
            f"--image-format {stated.image_format}"
        )
    return Provenance(
        source_file=printable(file.path.name),
        source_sha256=file.sha256,
        source_size=file.size,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=stated.licence or (before.licence if before else "not stated"),
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin=f"{before.source_file}; {before.origin}" if before else source.origin,
        architecture=source.architecture,
        pixel_mean=_floats(before.pixel_mean if before else statistics["pixel_mean"]),
        pixel_std=_floats(before.pixel_std if before else statistics["pixel_std"]),
        image_format=order or stated.image_format or "RGB",
        percent=100.0,
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
