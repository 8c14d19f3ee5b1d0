"""How many images batch normalisation sees at a time."""

from collections import Counter

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from panoptic_dl.engine.deviations import images_of_statistics

from ..patient import Patient
from ..verdicts import Verdict, fail, ok, warn
from .composition import images_per_pass

ENOUGH = 4  # images; with fewer, statistics are noise (Wu and He 2018, figure 1, for 2 and 4)
NORMALISING = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)
CURE = "a larger train.images_per_gpu, or backbone.norm=GN head.norm=GN"


def look_at_normalization(patient: Patient) -> Verdict:
    """Which layers there are, and what their statistics are made of."""
    model: nn.Module = patient.part("model")
    kinds = Counter(type(m).__name__ for m in model.modules() if isinstance(m, NORMALISING))
    images = images_of_statistics(model, images_per_pass(patient), patient.num_processes)
    found = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "none"
    if images is None:
        return ok(found)
    found += f", statistics over {images} image{'s' if images > 1 else ''}"
    if patient.num_processes == 1:
        found += " (one process: SyncBN is plain BN)"
    if images == 1:
        return fail(found, CURE)
    return warn(found, CURE) if images < ENOUGH else ok(found)
