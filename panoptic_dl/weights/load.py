"""Load a weights file completely, or say why not."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from .coverage import Coverage, compare
from .dtypes import not_finite
from .errors import WeightsError
from .origins import BACKBONE, BESIDE, Renamed, rename
from .pixels import check_pixels
from .printable import printable
from .read import WeightsFile, read_file, read_weights
from .run_folder import find_weights

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
