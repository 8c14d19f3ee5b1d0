"""Where weights files come from: how to tell them apart, and what their names are called here.

Names are compared exactly: no similarity is measured, nothing is guessed. A file of no origin in
the table must have our own names, with or without the prefix `backbone.`.

Which kinds of numbers weights may be: those that torch copies into any parameter.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_dl.core.errors import WeightsError

# Lists of what is allowed: torch gains kinds of numbers, and some of them cannot be copied.
REAL = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
WHOLE = frozenset((torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8))
KNOWN = REAL | WHOLE | {torch.bool}


def stands_for(theirs: torch.dtype, own: torch.dtype) -> bool:
    """Whether numbers of a file's kind may be loaded into a parameter or buffer of another."""
    if own.is_floating_point:
        return theirs in REAL
    return theirs in (WHOLE if own in WHOLE else {own} & KNOWN)


def not_finite(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """The tensors among `names` that hold NaN or infinity, or will once they are 32-bit."""
    return [
        name
        for name in names
        if tensors[name].dtype in REAL and not bool(tensors[name].float().isfinite().all())
    ]


BACKBONE = "backbone."
# What savers put before every name: DataParallel, and modules that keep the network in `model`.
WRAPPERS = ("module.", "model.")
STATISTICS = ("pixel_mean", "pixel_std")


@dataclass(frozen=True)
class Origin:
    """A repository whose files are known.

    Attributes:
        mark: a name that every such file has and no file of another origin.
        renames: prefixes and what takes their place; the first that fits is taken.
        drops: parts of a name's beginning that no network here has, and what they are.
        source: where the names were read.
    """

    name: str
    mark: str
    renames: tuple[tuple[str, str], ...]
    drops: Mapping[str, str]
    source: str


CLASSIFIER = "its ImageNet classifier"
HEAD = "its segmentation head"
# The original HRNet adds to its backbone, to classify: wider branches, their sum, one layer.
HRNET_CLASSIFIER = dict.fromkeys(
    ("incre_modules", "downsamp_modules", "final_layer", "classifier"), CLASSIFIER
)
# What stands beside a backbone in files of any origin; other parts are not known, and a fault.
BESIDE: Mapping[str, str] = {
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
    Origin(
        name="SegmenTron, Xception-65 for ImageNet",
        mark="block1.sep_conv1.block.depthwise.weight",
        renames=(("", BACKBONE),),
        drops=dict.fromkeys(("fc", "classifier"), CLASSIFIER),
        source="segmentron/models/backbones/xception.py: `block<n>.sep_conv<n>.block.*` as here",
    ),
    Origin(
        name="SegmenTron, a whole model with Xception-65",
        mark="encoder.block1.sep_conv1.block.depthwise.weight",
        renames=(("encoder.", BACKBONE),),
        drops=dict.fromkeys(("head", "auxlayer"), HEAD),
        source="segmentron/models/segbase.py (`encoder`), deeplabv3_plus.py (`head`, `auxlayer`)",
    ),
    Origin(
        name="HRNet-Image-Classification, or timm's HRNet (the same names)",
        mark="stage4.0.branches.3.0.conv1.weight",
        renames=(("", BACKBONE),),
        drops=HRNET_CLASSIFIER,
        source="timm/models/hrnet.py, which kept the names of the authors' lib/models/cls_hrnet.py",
    ),
    Origin(
        name="Panoptic-DeepLab or DeepLabV3+, of Detectron2 or of this project",
        mark="sem_seg_head.predictor.weight",
        renames=(),
        drops=dict.fromkeys(STATISTICS, "pixel statistics, which Detectron2 saved until 2020"),
        source="tools_d2/d2/backbone.py of bowenc0221/panoptic-deeplab; projects/Panoptic-DeepLab",
    ),
)


@dataclass(frozen=True)
class Renamed:
    """A file's tensors under our names."""

    tensors: dict[str, Tensor]
    origin: Origin | None
    dropped: dict[str, int]  # what the origin's table leaves out: "part: what it is" -> tensors
    statistics: dict[str, tuple[float, ...]]  # `pixel_mean` and `pixel_std` that were saved along


def rename(tensors: Mapping[str, Tensor]) -> Renamed:
    """Give tensors the names that this project's models have.

    Args:
        tensors: by the names in the file, wrappers' prefixes included.

    Raises:
        WeightsError: two tensors end up with one name.
    """
    plain = unwrap_names(tensors)
    origin = find_origin(plain)
    statistics = {
        name: tuple(float(value) for value in plain[name].flatten()[:16])
        for name in STATISTICS
        if name in plain and plain[name].dtype in KNOWN
    }
    if origin is None:
        return Renamed(dict(plain), None, {}, statistics)
    renamed: dict[str, Tensor] = {}
    dropped: dict[str, int] = {}
    for name, tensor in plain.items():
        part = name.split(".")[0]
        if part in origin.drops:
            key = f"{part}, {origin.drops[part]}"
            dropped[key] = dropped.get(key, 0) + 1
            continue
        renamed[_new_name(name, origin)] = tensor
    return Renamed(renamed, origin, dropped, statistics)


def find_origin(tensors: Mapping[str, Tensor]) -> Origin | None:
    """The origin whose mark is among the names, wrappers' prefixes aside; None: none of the table.

    A backbone that was saved with our prefix is told by the mark behind the prefix.
    """
    if all(name.startswith(BACKBONE) for name in tensors):
        return None
    return next((origin for origin in ORIGINS if origin.mark in tensors), None)


def unwrap_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take prefixes that all names share, such as `module.`, away, also behind `backbone.`.

    Raises:
        WeightsError: two tensors end up with one name.
    """
    plain = dict(tensors)
    while plain:
        if wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in plain)), None):
            plain = {name.removeprefix(wrapper): tensor for name, tensor in plain.items()}
            continue
        inner = {
            name: BACKBONE + name.removeprefix(BACKBONE + "module.")
            for name in plain
            if name.startswith(BACKBONE + "module.")
        } or {
            name: BACKBONE + name.removeprefix(BACKBONE * 2)
            for name in plain
            if name.startswith(BACKBONE * 2)
        }
        if not inner:
            return plain
        new = {inner.get(name, name): tensor for name, tensor in plain.items()}
        if len(new) != len(plain):
            raise WeightsError("two tensors have one name once their prefixes are taken away")
        plain = new
    return plain


def _new_name(name: str, origin: Origin) -> str:
    for old, new in origin.renames:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
