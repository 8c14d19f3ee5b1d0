"""Take the backbone out of a file of any known origin, and write it under our names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from torch import Tensor, nn

from .coverage import Coverage, compare, is_counter
from .dtypes import not_finite
from .errors import WeightsError
from .load import split_backbone
from .origins import BACKBONE, Renamed, rename
from .printable import printable
from .provenance import Provenance
from .read import WeightsFile, read_file
from .write import check_target, write_weights

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
