"""Your own data in Cityscapes' panoptic format: JSON files, PNGs, and your own categories.

    python run.py dataset=cityscapes_format dataset.root=FOLDER

FOLDER holds gtFine/cityscapes_panoptic_train.json, gtFine/cityscapes_panoptic_train/ and
leftImg8bit/train/<city>/, and the same of val; polygons and other labels are not needed. Classes,
things and stuff come from the JSON files, sizes are those of Cityscapes (1024 x 2048 pixels).
docs/how-to/formats.md has the format, an example, and which numbers to change.
"""

from ._custom import custom_data
from .cityscapes import dataset

dataset.update(custom_data("cityscapes_format"))
dataset.scale_offsets = True  # files may be of any size
