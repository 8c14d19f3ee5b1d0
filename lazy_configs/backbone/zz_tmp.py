from detectron2.config import LazyCall as L
from panoptic_dl.backbones.hrnet import HRNet
backbone = L(HRNet)(width=8, norm="BN", num_modules=(1,1,1,1), num_blocks=1, out_features=("res2","res3","res4","res5"))
decoder = dict(panoptic=dict(in_features=("res2","res3","res4","res5"), project_channels=(32,64,128), aspp_dilations=(3,6,9)), semantic=dict(in_features=("res2","res3","res4","res5"), project_channels=(48,96,192), aspp_dilations=(3,6,9)))
pixels = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
