"""What an option does to a network's output, so that nobody buys speed blindly.

Legend: N batch, K classes, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .inference import Maps


@dataclass(frozen=True)
class Effect:
    """Differences from the float32 network that nothing was changed in, over a batch."""

    max_logit_difference: float
    logit_spread: float  # standard deviation of the logits: what the difference compares with
    changed_classes: float  # share of pixels whose most likely class is another, 0..1
    changed_panoptic: float | None  # share of pixels whose panoptic id is; None: semantic task

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


def effect_of(
    model: Any, before: Maps, after: Maps, sizes: Sequence[tuple[int, int]], *, panoptic: bool
) -> Effect:
    """Compare two outputs of `model.network` for the same images of `sizes` (H, W)."""
    logits, changed = before[0].float(), after[0].float()
    samples: list[dict[str, Any]] = [{} for _ in sizes]
    share = None
    if panoptic:
        pairs = zip(
            model.postprocess(before, sizes, samples),
            model.postprocess(after, sizes, samples),
            strict=True,
        )
        shares = [
            (a["panoptic_seg"][0] != b["panoptic_seg"][0]).float().mean().item() for a, b in pairs
        ]
        share = sum(shares) / len(shares)
    return Effect(
        max_logit_difference=(logits - changed).abs().max().item(),
        logit_spread=logits.std().item(),
        changed_classes=(logits.argmax(1) != changed.argmax(1)).float().mean().item(),
        changed_panoptic=share,
    )
