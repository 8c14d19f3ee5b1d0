"""Networks from images to features, with Detectron2's `Backbone` interface."""

from panoptic_dl.models.backbones.hrnet import HRNet
from panoptic_dl.models.backbones.resnet import deeplab_resnet
from panoptic_dl.models.backbones.xception import Xception65

__all__ = ["HRNet", "Xception65", "deeplab_resnet"]
