"""Mapillary Vistas: street photographs from all over the world, 65 classes, 37 of them things.

18,000 training and 2,000 validation images of 2 to 22 megapixels (Neuhold et al., ICCV 2017).
`dataset.version=v2.0` has new annotations and about twice as many classes.
Classes, things and colors come from the JSON files.
Licence: for research, after registration at mapillary.com/dataset/vistas.
Prepare: `python scripts/prepare_dataset.py mapillary $DETECTRON2_DATASETS` says what to download,
unpacks it and counts.
"""

from ._custom import custom_data
from .cityscapes import dataset

dataset.update(custom_data("mapillary_${dataset.version}"))
dataset.root = "${oc.env:DETECTRON2_DATASETS,datasets}"  # holds mapillary_vistas/, or is it
dataset.version = "v1.2"  # or v2.0
dataset.train_split, dataset.test_split = "training", "validation"
# Panoptic-DeepLab's paper: images are 2177 pixels long, then scaled by 0.5 to 2, and cropped. Here
# the shortest edge is chosen; those of 2177 times the scale for images of 3:4.
dataset.crop_size = (1024, 1024)
dataset.min_sizes = (816, 1224, 1632, 2041, 2449, 2857, 3265)
dataset.max_size = 4354
dataset.image_size = (2448, 3264)  # of many files, for benchmarks
dataset.file_format = "jpg"
dataset.min_size_test = dataset.max_size_test = 2177
dataset.stuff_area = 4096
dataset.scale_offsets = True  # predictions are made at another size than that of the files
