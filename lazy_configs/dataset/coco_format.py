"""Your own data in COCO's panoptic format: a JSON file and a folder of PNGs for each split.

    python run.py dataset=coco_format dataset.root=FOLDER

FOLDER holds annotations/panoptic_train.json, train/, panoptic_train/ and the same of val; other
places are named by `dataset.train_json`, ... Classes, things and stuff come from the JSON files.
docs/how-to/formats.md has the format, an example, and which numbers to change.
"""

from ._custom import custom_data
from .coco import dataset

dataset.update(custom_data("coco_format"))
# For images of about 500 to 1000 pixels. Sizes are (height, width).
dataset.crop_size = (512, 512)
dataset.min_sizes = (384, 448, 512, 576, 640, 704, 768, 896, 1024)  # one for each sample
dataset.max_size = 2048  # of the longest edge
dataset.image_size = (512, 768)  # for benchmarks only
dataset.min_size_test, dataset.max_size_test = 640, 1280
dataset.size_divisibility = 0  # what the backbone needs
dataset.loss_top_k = 0.2  # the hardest pixels: small classes count beside large ones
dataset.scale_offsets = True  # predictions are made at another size than that of the files
# Areas and windows in pixels of the files.
dataset.stuff_area = 1024
dataset.nms_kernel = 17
