"""Networks from images to features, with Detectron2's `Backbone` interface."""

from panoptic_dl.backbones.hrnet import HRNet
from panoptic_dl.backbones.xception import Xception65

__all__ = ["HRNet", "Xception65"]
