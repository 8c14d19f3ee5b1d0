"""Panoptic-DeepLab and DeepLabV3+ experiments on Detectron2, composed by Hydra."""

import warnings

# Detectron2 does this while it is imported; nothing a user could act on.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
