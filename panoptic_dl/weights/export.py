"""Write weights with their provenance: a run's checkpoint for publishing, or a backbone.

`export` makes of a checkpoint the file that one would publish; `convert` takes the backbone out of
a file of any known origin.
"""

import json
import math
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import atomic_write, flush, printable, read_json_object, sha256_of
from panoptic_dl.core.run_folder import AVERAGE as AVERAGE_FILE
from panoptic_dl.core.run_folder import MANIFEST, RESULTS
from panoptic_dl.weights.load import Coverage, compare, load_model, split_backbone
from panoptic_dl.weights.names import (
    BACKBONE,
    KNOWN_DTYPES,
    STATISTICS,
    Renamed,
    not_finite,
    rename,
)
from panoptic_dl.weights.read import MAX_METRICS, Provenance, WeightsFile, read_weights

SUFFIXES = (".safetensors", ".pth", ".pkl")
AVERAGE_RESULTS = f"ema/{RESULTS}"
HASH_DIGITS = 8  # of the SHA-256 in the name of an exported file
# What tells the backbones apart: a parameter, and its shape (out, in, kernel height and width).
ARCHITECTURES = {
    "xception65": ("block21.sep_conv3.block.pointwise.weight", (2048, 1536, 1, 1)),
    "hrnet18": ("transition1.0.0.weight", (18, 256, 3, 3)),
    "hrnet32": ("transition1.0.0.weight", (32, 256, 3, 3)),
    "hrnet48": ("transition1.0.0.weight", (48, 256, 3, 3)),
}


def _check_target(path: Path, overwrite: bool) -> None:
    """Check before any work is done that a file can be written.

    Raises:
        WeightsError: an unknown kind of file, a missing folder, or a file that is there already.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: write one of {', '.join(SUFFIXES)}")
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
    """Write a file that `read_weights` and, with these names, Detectron2 read.

    It is written under a temporary name, flushed to disk, read again, compared with what was to be
    written, and renamed.

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
    _check_target(path, overwrite)
    for name, tensor in tensors.items():
        if tensor.dtype not in KNOWN_DTYPES:
            raise WeightsError(
                f"{path}: {printable(name)} has numbers of {tensor.dtype}, which not every reader "
                "knows; make them torch.float32 first"
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
            _verify(temporary, plain)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, by kind of file
        raise OSError(
            f"cannot write {path}: {error}. No part of it is left; free some space or name another "
            "folder"
        ) from error


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise OSError unless a file that was written holds these tensors."""
    again = read_weights(path).tensors
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
    # Detectron2 matches names by likeness unless the file says that they are exact.
    content |= {"model": arrays, "__author__": "panoptic-dl", "matching_heuristics": False}
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


def export(
    checkpoint: Path,
    model: nn.Module,
    folder: Path,
    *,
    ema: bool,
    row: str,
    pixel_mean: tuple[float, ...],
    pixel_std: tuple[float, ...],
    image_format: str,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Path:
    """Write `<folder>/<row>-<first digits of its SHA-256>.safetensors` and prove that it loads.

    The same checkpoint gives the same file, and so the same name. A moving average is named
    `<row>-ema-<...>`. Metrics are those of these very weights, or none.

    Args:
        checkpoint: in its run's folder, where git revision and metrics are read.
        model: of the run's config, of any values: the file is loaded into it.
        ema: take the moving averages that the checkpoint holds.
        row: dataset_task_backbone_head.

    Raises:
        WeightsError: the checkpoint is not of this model, has no averages, or the file is there
            already.
        OSError: the disk is full, or does not keep what it is given.
    """
    file = read_weights(checkpoint)
    tensors = _averages(file) if ema else file.tensors
    averaged = ema or checkpoint.name == AVERAGE_FILE
    coverage = compare(model.state_dict(), tensors)
    if coverage.faults:
        raise WeightsError(
            f"{checkpoint} is not of the model in its run's config:\n  "
            + "\n  ".join(coverage.lines())
        )
    run, iteration = checkpoint.parent, _iteration(file.other)
    metrics = metrics_of_checkpoint(run, checkpoint.name, file.sha256)  # refuses other files, too
    if averaged:
        metrics = metrics_of_average(run, iteration)
    changed = datetime.fromtimestamp(checkpoint.stat().st_mtime, timezone.utc)
    provenance = Provenance(
        source_file=checkpoint.name,
        source_sha256=file.sha256,
        source_size=file.size,
        date=changed.isoformat(timespec="seconds"),
        licence=licence,
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin="a run of panoptic-dl",
        architecture=row,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        image_format=image_format,
        percent=coverage.percent,
        row=row + (" (moving average of the weights)" if averaged else ""),
        iteration=iteration,
        revision=read_revision(run / "git.txt"),
        metrics=metrics,
    )
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder}; make it, or name another with --to")
    with tempfile.TemporaryDirectory(prefix=".unverified-", dir=folder) as fresh:
        unnamed = Path(fresh) / "unverified.safetensors"  # no file of anybody can be there
        write_weights(unnamed, tensors, provenance)
        load_model(model, unnamed, image_format)
        for name, own in model.state_dict().items():
            if name in tensors and not torch.allclose(
                own.cpu().double(), tensors[name].double(), rtol=0, atol=0, equal_nan=True
            ):
                raise OSError(f"{unnamed}: {printable(name)} is another after loading")
        name = f"{row}-ema" if averaged else row
        target = folder / f"{name}-{sha256_of(unnamed)[:HASH_DIGITS]}.safetensors"
        if target.exists() and not overwrite:
            raise WeightsError(f"{target} exists; it is this very file, or allow --overwrite")
        return unnamed.replace(target)


def _averages(file: WeightsFile) -> dict[str, Tensor]:
    average = file.other.get("ema")
    averages = average.get("model") if isinstance(average, Mapping) else None
    if not isinstance(averages, Mapping) or not averages:
        raise WeightsError(f"{file.path} holds no averaged weights (`ema`): leave out --ema")
    if not all(isinstance(value, Tensor) for value in averages.values()):
        raise WeightsError(f"{file.path}: `ema` holds something else than tensors")
    return {str(name): value.detach() for name, value in averages.items()}


def _iteration(other: Mapping[str, Any]) -> int:
    """Finished iterations, -1 if not known: checkpoints hold the number, from 0, of the last."""
    for place in (other, other.get("trainer")):
        if isinstance(place, Mapping) and type(place.get("iteration")) is int:
            return int(place["iteration"]) + 1
    return -1


def metrics_of_checkpoint(run: Path, name: str, sha256: str) -> str:
    """JSON of the metrics of a checkpoint's raw weights; "" where it was not evaluated.

    They are those that the run noted for a file of these contents: `model_final.pth` is a second
    name of the newest numbered checkpoint, and the evaluation may have been noted for that one.

    Raises:
        WeightsError: the manifest is damaged, or the file is not the one that the run wrote.
    """
    files = _read_json(run / MANIFEST).get("files", {})
    if not isinstance(files, Mapping) or not all(isinstance(e, Mapping) for e in files.values()):
        raise _damaged(run / MANIFEST, "no list of files")
    if files.get(name, {}).get("sha256", sha256) != sha256:
        raise WeightsError(
            f"{run / name} is not the file that the run wrote (SHA-256 differs from "
            f"{MANIFEST}); take another with --checkpoint"
        )
    if "no_result" in _read_json(run / RESULTS):  # a trial of a few images
        return ""
    same = [files.get(name, {}), *(e for e in files.values() if e.get("sha256") == sha256)]
    found: Any = next((entry["figures"] for entry in same if "figures" in entry), {})
    return _metrics_text(run / MANIFEST, found)


def metrics_of_average(run: Path, iteration: int) -> str:
    """JSON of the metrics of the moving average after so many iterations; "" where there are none.

    `model_ema.pth` does not name its iteration and so has none: the same weights lie in
    `model_final.pth`, with --ema.

    Args:
        iteration: finished iterations; -1: not known.

    Raises:
        WeightsError: the results are damaged.
    """
    summary = _read_json(run / AVERAGE_RESULTS)
    measured = summary.get("measured")
    at = measured.get("iteration") if isinstance(measured, Mapping) else None
    if type(at) is not int or at != iteration or iteration < 0 or "no_result" in summary:
        return ""
    return _metrics_text(run / AVERAGE_RESULTS, summary.get("metrics"))


def _metrics_text(file: Path, found: Any) -> str:
    if not isinstance(found, Mapping):
        raise _damaged(file, "its figures are no table")
    kept = {}
    for name, value in found.items():
        if value is None or str(name).startswith("ema/"):  # of the average, not of these weights
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _damaged(file, f"{printable(name)} is no number")
        if math.isfinite(value):
            kept[printable(name)] = round(value, 2)
    while len(text := json.dumps(kept)) > MAX_METRICS:
        kept.popitem()
    return text if kept else ""


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        return read_json_object(file) if file.is_file() else {}
    except ValueError as error:
        raise _damaged(file, printable(str(error))) from error


def _damaged(file: Path, why: str) -> WeightsError:
    return WeightsError(f"{file} is damaged ({why}); evaluate the run again, or remove it")


def read_revision(git: Path) -> str:
    """The git revision that a run noted last, and whether there were local changes; "" if none."""
    if not git.is_file():
        return ""
    last = git.read_text(errors="replace").rpartition("$ git rev-parse HEAD\n")[2]
    head, _, rest = last.partition("\n")
    status = rest.partition("$ git status --short\n")[2].partition("$ git diff HEAD")[0]
    known = len(head) in (40, 64) and all(c in "0123456789abcdef" for c in head)
    return head + (" with local changes" if status.strip() else "") if known else ""


@dataclass(frozen=True)
class _Source:
    """A file that is to be converted: its contents, and which backbone that is."""

    file: WeightsFile
    renamed: Renamed
    architecture: str  # an option of the group backbone

    @property
    def origin(self) -> str:
        """Name of the `Origin`, in words."""
        origin = self.renamed.origin
        return origin.name if origin else "panoptic-dl, or names that equal ours"


def open_source(path: str | Path, architecture: str | None = None) -> _Source:
    """Read a file and find out which backbone it holds.

    Args:
        architecture: an option of the group `backbone`; None: told by one parameter's shape.

    Raises:
        WeightsError: the file cannot be read, or is of none of the known backbones.
    """
    file = read_weights(path)
    try:
        renamed = rename(file.tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return _Source(file, renamed, architecture or find_architecture(renamed.tensors, path))


def find_architecture(tensors: Mapping[str, Tensor], path: str | Path) -> str:
    """The backbone, an option of the group `backbone`, that tensors are of.

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


def match_backbone(source: _Source, backbone: nn.Module) -> tuple[dict[str, Tensor], Coverage]:
    """The backbone's tensors by its own names, and the report; `backbone` may be on `meta`."""
    tensors, dropped = split_backbone(backbone, source.renamed)
    return tensors, compare(backbone.state_dict(), tensors, dropped)


def convert(
    source: _Source,
    target: str | Path,
    backbone: nn.Module,
    statistics: Mapping[str, Sequence[float]],
    *,
    licence: str | None = None,
    image_format: str | None = None,
    allow_partial: bool = False,
    overwrite: bool = False,
) -> Provenance:
    """Write the backbone of `source` as `target`, under the names of a whole model here.

    Counters of batches are left out: they start at 0 with the training.

    Args:
        backbone: of the source's architecture; its values do not matter.
        statistics: `pixel_mean` and `pixel_std` that go with it, if the file has none itself.
        licence: as the person who converts states it.
        image_format: channel order, RGB or BGR, as the person who converts states it.

    Raises:
        WeightsError: a part of the backbone is missing and `allow_partial` is not given, a value is
            not finite, the target cannot be written, or the source's own provenance has another
            channel order than is stated.
        OSError: the disk is full; nothing is left behind.
    """
    target, file, before = Path(target), source.file, source.file.provenance
    _check_target(target, overwrite)
    if target.exists() and target.samefile(file.path):
        raise WeightsError(f"{target} is the file that is read; name another one")
    tensors, coverage = match_backbone(source, backbone)
    if coverage.faults and not allow_partial:
        raise WeightsError(
            f"{file.path} does not fit {source.architecture}: {coverage.percent:.2f} % of its "
            "values are there. Nothing was written. Choose another --backbone, or write what fits "
            "with --allow-partial"
        )
    fitting = {BACKBONE + name: tensors[name] for name in coverage.matched}
    if not fitting:
        raise WeightsError(f"{file.path} has nothing of {source.architecture}")
    if bad := list(not_finite(fitting)):
        raise WeightsError(
            f"{file.path} holds infinite values or NaN in {len(bad)} tensors, such as "
            f"{printable(bad[0])}. Nothing was written; get the file anew"
        )
    order = before.image_format if before and before.image_format in ("RGB", "BGR") else None
    if order and image_format not in (None, order):
        raise WeightsError(
            f"{file.path} says that it expects {order} images: leave out "
            f"--image-format {image_format}"
        )
    mean, std = (
        getattr(before, name)
        if before
        else tuple(map(float, source.renamed.statistics.get(name, statistics[name])))
        for name in STATISTICS
    )
    provenance = Provenance(
        source_file=printable(file.path.name),
        source_sha256=file.sha256,
        source_size=file.size,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=licence or (before.licence if before else "not stated"),
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin=f"{before.source_file}; {before.origin}" if before else source.origin,
        architecture=source.architecture,
        pixel_mean=mean,
        pixel_std=std,
        image_format=order or image_format or "RGB",
        percent=coverage.percent,
    )
    write_weights(target, fitting, provenance, overwrite=overwrite)
    return provenance
