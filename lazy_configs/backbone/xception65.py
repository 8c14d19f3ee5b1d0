"""Xception-65 (Chen et al. 2018, arXiv:1802.02611), output stride 16: 37.9 M parameters.

ImageNet weights: `tf-xception65-270e81cf.pth`, DeepLab's TensorFlow model converted by the authors
of SegmenTron; its parameter names are those of this backbone.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.models.backbones.xception import Xception65

backbone = L(Xception65)(
    norm="SyncBN",
    output_stride=16,  # 8 and 32 work as well; scale aspp_dilations to match: 12 24 36, 3 6 9
    out_features=("res2", "res3", "res5"),
    freeze_at=0,  # 1: the stem, 2: and what makes res2, ...
)

decoder = dict(
    panoptic=dict(
        in_features=("res2", "res3", "res5"),
        project_channels=(32, 64),
        aspp_dilations=(6, 12, 18),
    ),
    semantic=dict(
        in_features=("res2", "res5"),
        project_channels=(48,),
        aspp_dilations=(6, 12, 18),
    ),
)

pixels = dict(mean=(128.0, 128.0, 128.0), std=(128.0, 128.0, 128.0))

pretrained = dict(
    file="tf-xception65-270e81cf.pth",
    source="release v0.1.0 of SegmenTron (LikeLy-Journey), made of DeepLab's TensorFlow model",
)
