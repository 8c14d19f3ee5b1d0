"""Convert pre-trained weights of a backbone, and print what was found in them.

    python scripts/convert_weights.py IN OUT [--backbone xception65|hrnet18|hrnet32|hrnet48]

IN is .pth, .pt, .pkl or .safetensors, such as tf-xception65-270e81cf.pth or
hrnetv2_w48_imagenet_pretrained.pth; a whole model will do, its backbone is taken out. OUT is
.safetensors, .pth, or the .pkl that Detectron2 reads. Nothing in IN is executed.
"""

import argparse
import sys

import torch

from panoptic_dl.config import build, compose
from panoptic_dl.core.files import printable
from panoptic_dl.weights.export import ARCHITECTURES, convert, match_backbone, open_source
from panoptic_dl.weights.read import megabytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
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
    source = open_source(arguments.source, arguments.backbone)
    config = compose([f"backbone={source.architecture}"])
    with torch.device("meta"):  # names and shapes are all that is needed
        backbone = build(config.backbone)
    _, coverage = match_backbone(source, backbone)
    path, size = printable(str(source.file.path), 4096), megabytes(source.file.size)
    print(f"{path}: {size}, SHA-256 {source.file.sha256}")
    print(f"names of: {source.origin}")
    print(f"backbone: {source.architecture}, {coverage.num_values:,} values")
    print("".join(f"  {line}\n" for line in coverage.lines(shown=20)), end="")
    provenance = convert(
        source,
        arguments.target,
        backbone,
        {"pixel_mean": config.pixels.mean, "pixel_std": config.pixels.std},
        licence=arguments.licence,
        image_format=arguments.image_format,
        allow_partial=arguments.allow_partial,
        overwrite=arguments.overwrite,
    )
    print(f"wrote {arguments.target}")
    print("".join(f"  {line}\n" for line in provenance.lines()), end="")
    if provenance.percent < 100:
        print("  It is a part only: weights= of this project will refuse it.")


if __name__ == "__main__":
    main()
