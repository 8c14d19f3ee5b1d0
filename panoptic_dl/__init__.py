"""Panoptic-DeepLab and DeepLabV3+ experiments on Detectron2, composed by Hydra."""
