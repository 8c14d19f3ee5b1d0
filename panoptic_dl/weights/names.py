"""Names and dtypes of weights: of which origin a file is, and what its names are called here.

Names are compared exactly: no similarity is measured, nothing is guessed. A file of no origin in
the table must have our own names, with or without the prefix `backbone.`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from panoptic_dl.core.errors import WeightsError

# Lists of what is allowed: torch gains dtypes, and some of them cannot be copied.
REAL_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INTEGER_DTYPES = frozenset((torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8))
KNOWN_DTYPES = REAL_DTYPES | INTEGER_DTYPES | {torch.bool}


def is_compatible(theirs: torch.dtype, own: torch.dtype) -> bool:
    """Whether values of a file's dtype may be loaded into a parameter or buffer of another."""
    if own.is_floating_point:
        return theirs in REAL_DTYPES
    return theirs in (INTEGER_DTYPES if own in INTEGER_DTYPES else {own} & KNOWN_DTYPES)


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors in nested containers with values that are NaN or infinite in float32."""
    if isinstance(state, Tensor):
        if state.dtype in REAL_DTYPES and not state.float().isfinite().all():
            yield name
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for place, value in enumerate(state):
            yield from not_finite(value, f"{name}[{place}]")


BACKBONE = "backbone."
# Prefixes of every name: of DataParallel, and of modules that keep the network in `model`.
WRAPPERS = ("module.", "model.")
STATISTICS = ("pixel_mean", "pixel_std")


@dataclass(frozen=True)
class Origin:
    """A repository whose files are known.

    Attributes:
        mark: a name that every such file has and no file of another origin.
        drops: first parts of names that no network here has, and what they are.
        prefix, new_prefix: a beginning of names, and what takes its place.
    """

    name: str
    mark: str
    drops: Mapping[str, str]
    prefix: str = ""
    new_prefix: str = BACKBONE


CLASSIFIER = "its ImageNet classifier"
HEAD = "its segmentation head"
# The original HRNet adds these to its backbone to classify.
HRNET_CLASSIFIER = dict.fromkeys(
    ("incre_modules", "downsamp_modules", "final_layer", "classifier"), CLASSIFIER
)
# First parts of names that are no part of a backbone; others are unexpected.
NOT_BACKBONE: Mapping[str, str] = {
    **HRNET_CLASSIFIER,
    **dict.fromkeys(("fc", "head", "last_layer", "classif"), CLASSIFIER),
    **dict.fromkeys(("auxlayer", "aux_head", "decode_head", "auxiliary_head"), HEAD),
    **dict.fromkeys(
        ("sem_seg_head", "ins_embed_head", "proposal_generator", "roi_heads"),
        "the head of a whole model",
    ),
    **dict.fromkeys(STATISTICS, "pixel statistics"),
}
ORIGINS = (
    # segmentron/models/backbones/xception.py: `block<n>.sep_conv<n>.block.*` as here
    Origin(
        "SegmenTron, Xception-65 for ImageNet",
        mark="block1.sep_conv1.block.depthwise.weight",
        drops=dict.fromkeys(("fc", "classifier"), CLASSIFIER),
    ),
    # segmentron/models/segbase.py (`encoder`), deeplabv3_plus.py (`head`, `auxlayer`)
    Origin(
        "SegmenTron, a whole model with Xception-65",
        mark="encoder.block1.sep_conv1.block.depthwise.weight",
        drops=dict.fromkeys(("head", "auxlayer"), HEAD),
        prefix="encoder.",
    ),
    # timm/models/hrnet.py, which kept the names of the authors' lib/models/cls_hrnet.py
    Origin(
        "HRNet-Image-Classification, or timm's HRNet (the same names)",
        mark="stage4.0.branches.3.0.conv1.weight",
        drops=HRNET_CLASSIFIER,
    ),
    # tools_d2/d2/backbone.py of bowenc0221/panoptic-deeplab; projects/Panoptic-DeepLab
    Origin(
        "Panoptic-DeepLab or DeepLabV3+, of Detectron2 or of this project",
        mark="sem_seg_head.predictor.weight",
        drops=dict.fromkeys(STATISTICS, "pixel statistics, which Detectron2 saved until 2020"),
        new_prefix="",
    ),
)


@dataclass(frozen=True)
class Renamed:
    """A file's tensors by our names."""

    tensors: dict[str, Tensor]
    origin: Origin | None
    dropped: dict[str, int]  # parts that the origin's table leaves out -> number of tensors
    statistics: dict[str, tuple[float, ...]]  # `pixel_mean` and `pixel_std`, if the file has them


def rename(tensors: Mapping[str, Tensor]) -> Renamed:
    """Give tensors the names that this project's models have.

    Args:
        tensors: by the names in the file, wrappers' prefixes included.

    Raises:
        WeightsError: two tensors end up with one name.
    """
    plain = _strip_wrappers(tensors)
    origin = _find_origin(plain)
    statistics = {
        name: tuple(float(value) for value in plain[name].flatten()[:16])
        for name in STATISTICS
        if name in plain and plain[name].dtype in KNOWN_DTYPES
    }
    if origin is None:
        return Renamed(plain, None, {}, statistics)
    renamed: dict[str, Tensor] = {}
    dropped: Counter[str] = Counter()
    for name, tensor in plain.items():
        part = name.split(".")[0]
        if part in origin.drops:
            dropped[f"{part}, {origin.drops[part]}"] += 1
        elif name.startswith(origin.prefix):
            renamed[origin.new_prefix + name.removeprefix(origin.prefix)] = tensor
        else:
            renamed[name] = tensor
    return Renamed(renamed, origin, dict(dropped), statistics)


def _find_origin(tensors: Mapping[str, Tensor]) -> Origin | None:
    """The origin whose mark is among the names; None for our own names, or unknown ones."""
    if all(name.startswith(BACKBONE) for name in tensors):
        return None
    return next((origin for origin in ORIGINS if origin.mark in tensors), None)


def _strip_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that all names share, such as `module.`, also behind `backbone.`."""
    plain = dict(tensors)
    while plain:
        if wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in plain)), None):
            plain = {name.removeprefix(wrapper): tensor for name, tensor in plain.items()}
            continue
        wrapped = (BACKBONE + "module.", BACKBONE * 2)
        inner = next((w for w in wrapped if any(n.startswith(w) for n in plain)), None)
        if inner is None:
            break
        new = {
            BACKBONE + name.removeprefix(inner) if name.startswith(inner) else name: tensor
            for name, tensor in plain.items()
        }
        if len(new) != len(plain):
            raise WeightsError("two tensors have one name once their prefixes are taken away")
        plain = new
    return plain
