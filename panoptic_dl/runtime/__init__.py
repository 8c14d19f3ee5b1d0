"""Exported models without PyTorch: numpy, Pillow and onnxruntime are all that is imported."""

from panoptic_dl.runtime.result import PanopticResult
from panoptic_dl.runtime.session import Session

__all__ = ["PanopticResult", "Session"]
