"""mode=eval: the published metrics of a trained model."""

from pathlib import Path
from typing import Any

from torch import nn

from panoptic_dl.weights.load import load_model

from .evaluation import Evaluation


def evaluate(
    *, device: str, model: nn.Module, evaluation: Evaluation, weights: str | None, run_dir: str
) -> dict[str, Any]:
    """Load `weights` completely, evaluate, print the table and save the results in `run_dir`.

    Raises:
        ValueError: no weights are named, or they do not fit the model.
    """
    if weights is None:
        raise ValueError(
            "mode=eval needs weights=FILE (.pth or .safetensors), such as "
            "weights=outputs/NAME/TIME/model_final.pth"
        )
    load_model(model, weights)
    return evaluation(model.to(device), Path(run_dir))
