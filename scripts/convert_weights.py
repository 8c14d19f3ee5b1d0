"""Convert pre-trained weights of a backbone, and print what was found in them.

    python scripts/convert_weights.py IN OUT [--backbone xception65|hrnet18|hrnet32|hrnet48]

IN is .pth, .pt, .pkl or .safetensors, such as tf-xception65-270e81cf.pth or
hrnetv2_w48_imagenet_pretrained.pth; a whole model will do, its backbone is taken out. OUT is
.safetensors, .pth, or the .pkl that Detectron2 reads. Nothing in IN is executed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable
from panoptic_dl.weights.load import Coverage, compare, split_backbone
from panoptic_dl.weights.names import BACKBONE, STATISTICS, Renamed, not_finite, rename
from panoptic_dl.weights.read import Provenance, WeightsFile, megabytes, read_weights
from panoptic_dl.weights.write import write_weights

# What tells the backbones apart: a parameter, and its shape (out, in, kernel height and width).
ARCHITECTURES = {
    "xception65": ("block21.sep_conv3.block.pointwise.weight", (2048, 1536, 1, 1)),
    "hrnet18": ("transition1.0.0.weight", (18, 256, 3, 3)),
    "hrnet32": ("transition1.0.0.weight", (32, 256, 3, 3)),
    "hrnet48": ("transition1.0.0.weight", (48, 256, 3, 3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument(
        "--backbone", choices=list(ARCHITECTURES), help="default: told by names and shapes"
    )
    parser.add_argument("--licence", help="kept in OUT, as you state it")
    parser.add_argument(
        "--image-format",
        choices=("RGB", "BGR"),
        help="channel order that IN was trained with; default: what IN says, else RGB",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="write even if parts of the backbone are missing",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> None:
    target: Path = arguments.target
    file = read_weights(arguments.source)
    try:
        renamed = rename(file.tensors)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from None
    architecture = arguments.backbone or find_architecture(renamed.tensors, file.path)
    config = compose([f"backbone={architecture}"])
    with torch.device("meta"):  # names and shapes are all that is needed
        backbone = build(config.backbone)
    tensors, dropped = split_backbone(backbone, renamed)
    coverage = compare(backbone.state_dict(), tensors, dropped)
    print(
        f"{printable(str(file.path), 4096)}: {megabytes(file.size)}, SHA-256 {file.sha256}\n"
        f"names of: {origin_of(renamed)}\n"
        f"backbone: {architecture}, {coverage.num_values:,} values"
    )
    print("".join(f"  {line}\n" for line in coverage.lines(shown=20)), end="")
    if target.exists() and target.samefile(file.path):
        raise WeightsError(f"{target} is the file that is read; name another one")
    if coverage.faults and not arguments.allow_partial:
        raise WeightsError(
            f"{file.path} does not fit {architecture}: {coverage.percent:.2f} % of its "
            "values are there. Nothing was written. Choose another --backbone, or write what fits "
            "with --allow-partial"
        )
    # Counters of batches are left out: they start at 0 with the training.
    fitting = {BACKBONE + name: tensors[name] for name in coverage.matched}
    if not fitting:
        raise WeightsError(f"{file.path} has nothing of {architecture}")
    if bad := list(not_finite(fitting)):
        raise WeightsError(
            f"{file.path} holds infinite values or NaN in {len(bad)} tensors, such as "
            f"{printable(bad[0])}. Nothing was written; get the file anew"
        )
    statistics = {"pixel_mean": config.pixels.mean, "pixel_std": config.pixels.std}
    provenance = describe(file, renamed, coverage, architecture, statistics, arguments)
    write_weights(target, fitting, provenance, overwrite=arguments.overwrite)
    print(f"wrote {target}")
    print("".join(f"  {line}\n" for line in provenance.lines()), end="")
    if provenance.percent < 100:
        print("  It is a part only: weights= of this project will refuse it.")


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


def origin_of(renamed: Renamed) -> str:
    return renamed.origin.name if renamed.origin else "panoptic-dl, or names that equal ours"


def describe(
    file: WeightsFile,
    renamed: Renamed,
    coverage: Coverage,
    architecture: str,
    statistics: Mapping[str, Sequence[float]],
    arguments: argparse.Namespace,
) -> Provenance:
    """The provenance of the converted file; what the read file says of itself goes first.

    Args:
        statistics: `pixel_mean` and `pixel_std` that go with the backbone, if the file has none.

    Raises:
        WeightsError: the file's own provenance has another channel order than is stated.
    """
    before, image_format = file.provenance, arguments.image_format
    order = before.image_format if before and before.image_format in ("RGB", "BGR") else None
    if order and image_format not in (None, order):
        raise WeightsError(
            f"{file.path} says that it expects {order} images: leave out "
            f"--image-format {image_format}"
        )
    mean, std = (
        getattr(before, name)
        if before
        else tuple(map(float, renamed.statistics.get(name, statistics[name])))
        for name in STATISTICS
    )
    return Provenance(
        source_file=printable(file.path.name),
        source_sha256=file.sha256,
        source_size=file.size,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=arguments.licence or (before.licence if before else "not stated"),
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin=f"{before.source_file}; {before.origin}" if before else origin_of(renamed),
        architecture=architecture,
        pixel_mean=mean,
        pixel_std=std,
        image_format=order or image_format or "RGB",
        percent=coverage.percent,
    )


if __name__ == "__main__":
    main()
