"""How the golden figures in this folder were made, to hold any implementation against them.

Each <row>.npz holds what the reference Panoptic-DeepLab / DeepLabV3+ model of that table row
computes, on CPU in float32, from weights, an image and a label map that the functions below make
from nothing but a seed. Fill your model with `weights`, run it on `image`, compare. The reference
used norm "BN", in eval mode.

Keys of a .npz (H x W is the image, s = STRIDE; maps are sampled [..., ::s, ::s]):
  feat_<name>_mean          (C,)            mean over pixels of each feature of the normalised image
  net_sem_seg               (K, H/s, W/s)   logits of the semantic head, at input resolution
  net_center, net_offset    (1|2, H/s, W/s) instance head, likewise; offset is (y, x) in pixels
  sem_seg                   (K, H/s, W/s)   "sem_seg" of the whole model's output for one image
  panoptic_seg              (H, W)          "panoptic_seg": category * 1000 + instance, -1 is void
  scores, classes, boxes, areas             "instances", in the model's order
  loss_sem_seg, loss_center, loss_offset    training losses for `labels` (see below)
COCO rows: the image is 640 x 480 and the model pads it to 640 x 640 with zeros after
normalisation; net_* are of the padded image. Float maps agree to about 1e-4 relative between
machines; panoptic_seg agrees on all but a few pixels, because an argmax can flip where two logits
almost tie.

Losses: normalisation layers are in eval mode, but the dropout that Detectron2's ASPP applies by
itself is on. Its masks follow `torch.manual_seed(0)` before the model was made with PyTorch's own
initial weights; see `seeded_model` in tests/models/golden_rows.py.

<row>.state_dict.json lists every parameter and buffer of the reference model with its shape:
checkpoints published for these rows have these names.
"""

import zlib

import numpy as np

ROWS = (
    "cityscapes_panoptic_xception65_conv",
    "cityscapes_panoptic_hrnet48_conv",
    "cityscapes_panoptic_xception65_dsconv",
    "cityscapes_panoptic_hrnet48_dsconv",
    "coco_panoptic_xception65_dsconv",
    "coco_panoptic_hrnet48_dsconv",
    "cityscapes_semantic_xception65_conv",
    "cityscapes_semantic_hrnet48_conv",
)
SEED = 1
STRIDE = 32


def image_size(row: str) -> tuple[int, int]:
    """Height and width of the row's test image."""
    return (640, 480) if row.startswith("coco") else (512, 1024)


def weights(
    row: str, shapes: dict[str, tuple[int, ...]], seed: int = SEED
) -> dict[str, np.ndarray]:
    """Values for every parameter and buffer, each drawn from a generator seeded by its own name."""
    backbone_gain = 0.5 if "hrnet" in row else 1.4
    values = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        shape = tuple(shape)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif name.endswith("running_mean"):
            value = 0.1 * rng.standard_normal(shape)
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            gain = backbone_gain if name.startswith("backbone") else 2.0
            value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        elif name.endswith("weight"):
            value = rng.uniform(0.7, 1.1, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        values[name] = value.astype(np.float32)
    return values


def image(row: str, seed: int = SEED) -> np.ndarray:
    """A smooth random RGB image, (3, H, W), whole numbers 0..255 as float32."""
    import torch

    height, width = image_size(row)
    rng = np.random.default_rng([seed, 777])
    coarse = rng.integers(0, 256, (3, height // 8, width // 8)).astype(np.float32)
    fine = torch.nn.functional.interpolate(
        torch.as_tensor(coarse)[None], size=(height, width), mode="bilinear", align_corners=False
    )
    return fine[0].round().numpy()


def labels(row: str, seed: int = SEED) -> tuple[np.ndarray, list[dict]]:
    """A panoptic label map (H, W) of segment ids, and its segments_info (contiguous categories)."""
    height, width = image_size(row)
    coco = row.startswith("coco")
    stuff, things = ((80, 101, 132), np.arange(0, 80)) if coco else ((0, 2, 10), np.arange(11, 19))
    rng = np.random.default_rng([seed, 555])
    panoptic = np.zeros((height, width), np.int64)
    segments = []
    for band, category in enumerate(stuff):
        panoptic[band * height // 3 : (band + 1) * height // 3] = band + 1
        segments.append({"id": band + 1, "category_id": int(category), "iscrowd": 0})
    for k in range(14):
        h, w = rng.integers(8, height // 4), rng.integers(8, width // 4)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        panoptic[y : y + h, x : x + w] = 100 + k
        segments.append(
            {"id": 100 + k, "category_id": int(rng.choice(things)), "iscrowd": int(k == 13)}
        )
    panoptic[:, :7] = 0  # unlabelled
    return panoptic, segments
