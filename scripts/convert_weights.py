"""Convert pre-trained weights of a backbone, and print what was found in them.

    python scripts/convert_weights.py IN OUT [--backbone NAME]

IN is .pth, .pt, .pkl, .safetensors or another file of these kinds, such as
tf-xception65-270e81cf.pth or hrnetv2_w48_imagenet_pretrained.pth; a whole model will do, its
backbone is taken out. NAME is any option of `backbone=`, your own as well, or timm: and a name of
timm's. OUT is .safetensors, .pth, or the .pkl that Detectron2 reads; files of timm keep timm's
names. Nothing in IN is executed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from panoptic_dl.config import ConfigError, TargetError, build, compose, options
from panoptic_dl.config.composition import add_config_dir
from panoptic_dl.core.errors import PartError, WeightsError, one_line_errors
from panoptic_dl.core.files import local_path, printable
from panoptic_dl.core.parallel import size_text
from panoptic_dl.weights.files import Provenance, WeightsFile, read_weights, write_weights
from panoptic_dl.weights.load import Coverage, compare
from panoptic_dl.weights.names import BACKBONE, STATISTICS, find_statistics, fit, not_finite


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT", type=local_path)
    parser.add_argument("--backbone", metavar="NAME", help="default: told by names and shapes")
    parser.add_argument(
        "--prefix", help="what the backbone's names begin with, where IN holds it several times"
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
    add_config_dir(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    target: Path = arguments.target
    file = read_weights(arguments.source)
    how = (arguments.prefix, arguments.config_dir)
    try:
        if arguments.backbone:
            found = find_backbone(file.tensors, arguments.backbone, *how)
        else:
            found = find_any_backbone(file.tensors, *how)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from None
    coverage = found.coverage
    print(
        f"{printable(str(file.path), 4096)}: {size_text(file.size)}, SHA-256 {file.sha256}\n"
        f"backbone: {found.name}, {coverage.num_values:,} values"
        + (f", behind '{printable(found.prefix)}'" if found.prefix else "")
    )
    print("".join(f"  {line}\n" for line in coverage.lines(shown=20)), end="")
    if target.exists() and target.samefile(file.path):
        raise WeightsError(f"{target} is the file that is read; name another one")
    if coverage.faults and not arguments.allow_partial:
        unexpected = printable(coverage.faults.get("unexpected", [""])[0])
        has = f"{coverage.percent:.2f} % of its values are there"
        if coverage.percent == 100:
            has = f"all of its values are there, and others within its layers, such as {unexpected}"
        raise WeightsError(
            f"{file.path} does not fit {found.name}: {has}. Nothing was written. Name another "
            "--backbone, or write what fits with --allow-partial"
        )
    # Counters of batches are left out: they start at 0 with the training.
    fitting = {found.begin + name: found.tensors[name] for name in coverage.matched}
    if not fitting:
        raise WeightsError(f"{file.path} has nothing of {found.name}")
    if bad := list(not_finite(fitting)):
        raise WeightsError(
            f"{file.path} holds infinite values or NaN in {len(bad)} tensors, such as "
            f"{printable(bad[0])}. Nothing was written; get the file anew"
        )
    provenance = describe(file, found, arguments)
    write_weights(target, fitting, provenance, overwrite=arguments.overwrite)
    print(f"wrote {target}")
    print("".join(f"  {line}\n" for line in provenance.lines()), end="")
    if provenance.percent < 100:
        print("  It is a part only: weights= of this project will refuse it.")


@dataclass(frozen=True)
class Found:
    """A backbone, an option of `backbone=`, and what a file has of it."""

    name: str
    config: DictConfig
    prefix: str
    tensors: dict[str, Tensor]
    coverage: Coverage
    begin: str = BACKBONE  # of the names in OUT


def find_backbone(
    tensors: Mapping[str, Tensor],
    name: str,
    prefix: str | None = None,
    config_dirs: Sequence[Path] = (),
) -> Found:
    """Look for a backbone in a file's tensors.

    Raises:
        ConfigError, PartError: there is no such backbone.
        WeightsError: it is there several times, and `prefix` does not say which to take.
    """
    option, _, inner = name.partition(":")
    words = [f"backbone={option}", *([f"backbone.name={inner}"] if inner else [])]
    config, begin = compose(words, config_dirs), BACKBONE
    with torch.device("meta"):  # names and shapes are all that is needed
        backbone = build(config.backbone)
    for key, value in config.pixels.items():
        config.pixels[key] = getattr(backbone, f"pixel_{key}") if value is None else value
    own, prefix = backbone.state_dict(), prefix and prefix.rstrip(".") + "."
    part = fit(own, tensors, prefix=prefix)
    if hasattr(backbone, "encoder") and not own.keys() & part.tensors.keys():
        own, begin = backbone.encoder.state_dict(), ""  # by which `weights=` finds it
        part = fit(own, backbone.convert_names(tensors), prefix=prefix)
    coverage = compare(own, part.tensors, part.left_out)
    return Found(name, config, part.prefix, part.tensors, coverage, begin)


def find_any_backbone(
    tensors: Mapping[str, Tensor], prefix: str | None = None, config_dirs: Sequence[Path] = ()
) -> Found:
    """Look for all backbones in a file's tensors, and return the one that is there.

    Raises:
        WeightsError: less than half of each is there, or several are there completely.
    """
    founds = []
    for name in options("backbone", config_dirs):
        try:
            founds.append(find_backbone(tensors, name, prefix, config_dirs))
        except (ConfigError, PartError, TargetError) as error:
            if name != "timm":  # which stands for none; others are the user's own
                print(f"not looked for: {name}, {error}", file=sys.stderr)
    complete = [found for found in founds if not found.coverage.faults]
    best = max(founds, key=lambda found: found.coverage.percent)
    if len(complete) > 1:
        names = " and ".join(found.name for found in complete)
        raise WeightsError(f"it fits {names}: say with --backbone which it is for")
    if not complete and best.coverage.percent < 50:
        raise WeightsError(
            f"it is none of {', '.join(found.name for found in founds)} by its names and shapes "
            f"(it begins with {', '.join(map(printable, list(tensors)[:3]))}); if it is one, say "
            "which with --backbone; one of your own needs a file in lazy_configs/backbone, or "
            "--config-dir"
        )
    return complete[0] if complete else best


def describe(file: WeightsFile, found: Found, arguments: argparse.Namespace) -> Provenance:
    """The provenance of the converted file; what the read file says of itself goes first.

    Pixel statistics are those in the file, else those of the backbone's config.

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
    config, in_file = found.config, find_statistics(file.tensors)
    usual = {"pixel_mean": config.pixels.mean, "pixel_std": config.pixels.std}
    mean, std = (
        getattr(before, name) if before else tuple(map(float, in_file.get(name, usual[name])))
        for name in STATISTICS
    )
    recipe = config.get("pretrained")
    origin = recipe.source if recipe and recipe.file == file.path.name else "not stated"
    return Provenance(
        source_file=printable(file.path.name),
        source_sha256=file.sha256,
        source_size=file.size,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=arguments.licence or (before.licence if before else "not stated"),
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin=f"{before.source_file}; {before.origin}" if before else origin,
        architecture=found.name,
        pixel_mean=mean,
        pixel_std=std,
        image_format=order or image_format or "RGB",
        percent=found.coverage.percent,
    )


if __name__ == "__main__":
    main()
