"""The weights that training starts from, or that it lacks."""

import torch
from torch import nn

from panoptic_dl.weights.load import load_model_or_backbone

from ..patient import Patient
from ..verdicts import Verdict, fail, ok, warn


def look_at_weights(patient: Patient) -> Verdict:
    """`weights=` covers the model or its backbone, with finite numbers; they are loaded."""
    if patient.weights is None:
        if patient.pretrained is None:
            return ok("none, and none are expected: training starts from random weights")
        file = patient.pretrained["file"]
        return warn(
            f"none: published figures start from {file}, of {patient.pretrained['source']}",
            f"python scripts/convert_weights.py {file} BACKBONE.safetensors, then "
            "weights=BACKBONE.safetensors (pretrained=null if random weights are meant)",
        )
    model: nn.Module = patient.part("model")
    coverage = load_model_or_backbone(model, patient.weights, patient.image_format)
    found = f"{patient.weights}: {coverage.lines()[0]}"
    bad = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if bad:
        return fail(
            f"{found}, but {len(bad)} tensors hold infinite values or NaN, such as {bad[0]}",
            "take another checkpoint: this one comes from a training that failed",
        )
    return ok(found)
