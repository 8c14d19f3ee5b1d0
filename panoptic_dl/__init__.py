"""Panoptic-DeepLab and DeepLabV3+ experiments on Detectron2, composed by Hydra."""

import os
import warnings
from typing import TYPE_CHECKING, Any

from panoptic_dl.core.errors import import_advice
from panoptic_dl.core.files import ensure_home

if TYPE_CHECKING:
    from panoptic_dl.demo.predictor import Predictor
    from panoptic_dl.runtime.result import PanopticResult

__all__ = ["PanopticResult", "Predictor"]

ensure_home()
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or onnxruntime reports its use to its maker
# Detectron2 does this while it is imported; nothing a user could act on.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


def __getattr__(name: str) -> Any:
    """`Predictor`, which imports torch, and `PanopticResult`, when somebody asks for them."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("panoptic-dl")
    try:
        if name == "Predictor":
            from panoptic_dl.demo.predictor import Predictor

            return Predictor
        if name == "PanopticResult":
            from panoptic_dl.runtime.result import PanopticResult

            return PanopticResult
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: {import_advice(error)}", name=error.name) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
