"""ResNet-52 of DeepLab (Chen et al. 2017, arXiv:1706.05587), output stride 16: 23.6 M parameters.

ImageNet weights: `R-52.pkl` of Detectron2's model zoo, a ResNet-50 whose first 7x7 convolution
became three of 3x3.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.models.backbones.resnet import deeplab_resnet

backbone = L(deeplab_resnet)(
    depth=50,
    norm="SyncBN",
    output_stride=16,  # 8 and 32 work as well; scale aspp_dilations to match: 12 24 36, 3 6 9
    res5_multi_grid=(1, 2, 4),
    out_features=("res2", "res3", "res5"),
    freeze_at=0,  # 1: the stem, 2: and res2, ...
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

pixels = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

pretrained = dict(file="R-52.pkl", source="Detectron2's model zoo, detectron2://DeepLab/R-52.pkl")
