"""A toy HRNet-W16 with one block and one module per stage, output stride 32: 0.9 M parameters.

For the quickstart on a CPU; trained from scratch, no weights and no published metrics.
"""

from .hrnet48 import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.width = 16
backbone.num_modules = (1, 1, 1, 1)
backbone.num_blocks = 1
backbone.stem_channels = 16

decoder.panoptic.project_channels = (16, 24, 32)
decoder.semantic.project_channels = (16, 24, 32)
