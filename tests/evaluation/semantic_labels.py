"""Small labels of a dataset without an official script, and scores that are often right."""

import itertools
import tempfile

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

NUM_CLASSES = 5
numbers = itertools.count()
folder = tempfile.TemporaryDirectory()


def labelled(seed, missing=(1,), ignored=255) -> tuple[np.ndarray, torch.Tensor]:
    """(H, W) label without the classes `missing`, and (K, H, W) scores that are often right."""
    draw = np.random.default_rng(seed)
    truth = draw.choice([0, 2, 3, 4, ignored][: draw.integers(1, 6)], (9, 7)).astype(np.uint8)
    truth[np.isin(truth, missing)] = ignored
    scores = draw.random((NUM_CLASSES, 9, 7), dtype=np.float32)
    y, x = np.nonzero((truth != ignored) & (draw.random(truth.shape) < 0.6))
    scores[truth[y, x], y, x] += 1
    return truth, torch.from_numpy(scores)


def labelled_dataset(seeds):
    name = f"streaming_labels_{next(numbers)}"
    pairs = {f"{seed}.jpg": labelled(seed) for seed in seeds}
    records = []
    for file, (truth, _) in pairs.items():
        records.append({"file_name": file, "sem_seg_file_name": f"{folder.name}/{file}.png"})
        Image.fromarray(truth).save(records[-1]["sem_seg_file_name"])
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        stuff_classes=[f"class{index}" for index in range(NUM_CLASSES)], ignore_label=255
    )
    outputs = [{"sem_seg": scores} for _, scores in pairs.values()]
    return name, records, outputs
