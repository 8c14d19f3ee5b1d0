"""HRNet-W48 (Wang et al. 2020, arXiv:1908.07919), output stride 32: 65.3 M parameters.

ImageNet weights: `hrnetv2_w48_imagenet_pretrained.pth` of the authors' repository
HRNet-Image-Classification; the parts of it that classify are not used.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.models.backbones.hrnet import HRNet

backbone = L(HRNet)(
    width=48,
    norm="SyncBN",
    out_features=("res2", "res3", "res4", "res5"),
    freeze_at=0,  # 1: the stem, 2: and the first stage, ...
)

# ASPP sees stride 32, hence half the dilations that are usual at stride 16.
decoder = dict(
    panoptic=dict(
        in_features=("res2", "res3", "res4", "res5"),
        project_channels=(32, 64, 128),
        aspp_dilations=(3, 6, 9),
    ),
    semantic=dict(
        in_features=("res2", "res3", "res4", "res5"),
        project_channels=(48, 96, 192),
        aspp_dilations=(3, 6, 9),
    ),
)

pixels = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

pretrained = dict(
    file="hrnetv2_w48_imagenet_pretrained.pth",
    source="HRNet-Image-Classification, the repository of HRNet's authors",
)
