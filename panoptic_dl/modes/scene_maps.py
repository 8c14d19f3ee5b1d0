"""Images of crowded scenes and the maps that a trained network would predict, made by formula.

For benchmarks without a dataset or weights: post-processing costs nothing on the output of random
weights, which has no centers, and something unreal on random noise. Here things stand on a ground
in perspective and hide each other; offsets point to centers with an error that grows with the
object; class borders waver.

Legend: K classes, H W pixels.
"""

import tempfile
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


class SceneMaps(NamedTuple):
    """One image's maps in Panoptic-DeepLab's formats."""

    sem_seg: Tensor  # (1, H, W) int64 contiguous category ids
    center: Tensor  # (1, H, W) float32 heatmap, 0..1
    offset: Tensor  # (2, H, W) float32 (y, x) in pixels

    def logits(self, num_classes: int) -> Tensor:
        """(K, H, W) class logits whose largest is that of `sem_seg`, by 4."""
        logits = torch.zeros((num_classes, *self.sem_seg.shape[1:]), device=self.sem_seg.device)
        return logits.scatter_(0, self.sem_seg, 4.0)


class BenchmarkScenes:
    """Scenes of one size: files to read and decode, and the maps of a trained network for them.

    Args:
        size: (H, W) in pixels, at least 32.
        num_scenes: how many different ones there are.
        num_things: things drawn in each; about six of seven have a center of their own.
        num_classes, thing_ids: contiguous category ids; the first eight that are no things are the
            stuff. Where all are things, some are the ground as well; where none is, none is drawn.
        sigma: of the peaks of the heatmap, in pixels.
        file_format: `png` or `jpg`, as the dataset has its images.
        seed: of the scenes.
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        num_scenes: int,
        num_things: int,
        num_classes: int,
        thing_ids: Sequence[int],
        sigma: float,
        file_format: str,
        seed: int | None = 0,
    ) -> None:
        self.size = height, width = int(size[0]), int(size[1])
        self.num_scenes, first_seed = num_scenes, seed or 0
        stuff = [i for i in range(num_classes) if i not in thing_ids]
        make_maps = partial(
            scene_maps,
            self.size,
            num_things if len(thing_ids) else 0,
            thing_ids=list(thing_ids),
            stuff_ids=(stuff or list(thing_ids))[:8],
            sigma=sigma,
        )
        self._maps = lru_cache(maxsize=8)(lambda index: make_maps(seed=first_seed + index))
        # The folder goes when the scenes do.
        self._folder = tempfile.TemporaryDirectory(prefix="panoptic_dl_scenes_")
        self._records: list[dict[str, Any]] = []
        for index in range(num_scenes):
            file = Path(self._folder.name, f"scene_{index:03d}.{file_format}")
            Image.fromarray(_paint(self.maps(index), num_classes, first_seed + index)).save(file)
            self._records.append(
                {"file_name": str(file), "height": height, "width": width, "image_id": index}
            )

    def record(self, index: int) -> dict[str, Any]:
        """File name, size and id of an image in Detectron2's dataset format."""
        return dict(self._records[index % self.num_scenes])

    def maps(self, index: int) -> SceneMaps:
        """The maps that a trained network would predict for that image."""
        return self._maps(index % self.num_scenes)


def scene_maps(
    size: tuple[int, int],
    num_things: int,
    *,
    thing_ids: Sequence[int],
    stuff_ids: Sequence[int],
    sigma: float = 10.0,
    seed: int = 0,
) -> SceneMaps:
    """A scene of `size` (H, W) with `num_things` things, as far as none is hidden behind others.

    `thing_ids` and `stuff_ids` are contiguous category ids that occur; there is some stuff. `sigma`
    is that of the peaks of the heatmap in pixels, as in training.
    """
    random = np.random.default_rng(seed)
    height, width = size
    # Uneven bands of stuff from top to bottom.
    bands = np.sort(random.uniform(0, height, len(stuff_ids) - 1))
    hills = _smooth_noise(random, 1, size, max(height // 8, 1))[0] * height * 0.05
    places = np.searchsorted(bands, np.arange(height)[:, None] + hills)
    sem_seg = np.asarray(stuff_ids, np.int64)[places]

    owner = np.full(size, -1)
    boxes = _boxes(random, size, num_things)
    for number, (top, left, box_height, box_width) in enumerate(boxes):
        rows = slice(max(int(top), 0), min(int(top + box_height) + 1, height))
        columns = slice(max(int(left), 0), min(int(left + box_width) + 1, width))
        y = (np.arange(rows.start, rows.stop)[:, None] - top) / box_height * 2 - 1
        x = (np.arange(columns.start, columns.stop)[None] - left) / box_width * 2 - 1
        power = random.uniform(2, 5)
        inside = np.abs(y) ** power + np.abs(x) ** power < 1  # a rounded shape
        sem_seg[rows, columns][inside] = random.choice(thing_ids)
        owner[rows, columns][inside] = number

    heatmap, offset = np.zeros(size, np.float32), np.zeros((2, height, width), np.float32)
    for number, (*_, box_height, box_width) in enumerate(boxes):
        own_y, own_x = np.nonzero(owner == number)
        if not len(own_y):
            continue
        center = (own_y.mean(), own_x.mean())
        error = 0.02 * np.hypot(box_height, box_width)
        drift = random.normal(0, error, (2, 1))
        to_center = np.stack((center[0] - own_y, center[1] - own_x))
        offset[:, own_y, own_x] = to_center + drift * random.random(len(own_y))
        _add_peak(heatmap, center, sigma, random.uniform(0.5, 0.95))
    offset += _smooth_noise(random, 2, size, 16)
    heatmap += 0.015 * np.abs(_smooth_noise(random, 1, size, 4)[0])

    # Each pixel takes its class from a few pixels away: borders as networks draw them.
    shift = (2 * _smooth_noise(random, 2, size, 6)).round().astype(np.int64)
    from_y = (np.arange(height)[:, None] + shift[0]).clip(0, height - 1)
    from_x = (np.arange(width)[None] + shift[1]).clip(0, width - 1)
    return SceneMaps(
        torch.from_numpy(sem_seg[from_y, from_x])[None],
        torch.from_numpy(heatmap.clip(0, 1))[None],
        torch.from_numpy(offset.astype(np.float32)),
    )


def _boxes(
    random: np.random.Generator, size: tuple[int, int], count: int
) -> list[tuple[float, float, float, float]]:
    """(top, left, height, width) in pixels of `count` things, far to near."""
    height, width = size
    boxes = []
    for nearness in np.sort(random.random(count) ** 2):  # 0 at the horizon
        box_height = height * (0.03 + 0.3 * nearness) * random.uniform(0.7, 1.3)
        box_width = box_height * random.choice([0.4, 0.5, 1.4, 1.8])
        bottom = height * (0.45 + 0.5 * nearness) + random.normal(0, 0.02 * height)
        left = random.uniform(-0.3 * box_width, width - 0.7 * box_width)
        boxes.append((bottom - box_height, left, box_height, box_width))
    return boxes


def _add_peak(
    heatmap: NDArray[np.float32], center: tuple[float, float], sigma: float, height: float
) -> None:
    down, right = (
        np.exp(-((np.arange(size) - middle) ** 2) / (2 * sigma**2)).astype(np.float32)
        for size, middle in zip(heatmap.shape, center, strict=True)
    )
    np.maximum(heatmap, np.outer(height * down, right), out=heatmap)


def _smooth_noise(
    random: np.random.Generator, channels: int, size: tuple[int, int], cell: int
) -> NDArray[np.float32]:
    """(channels, H, W) of standard deviation about 1, smooth over `cell` pixels."""
    coarse = random.standard_normal((1, channels, size[0] // cell + 2, size[1] // cell + 2))
    fine = F.interpolate(
        torch.from_numpy(coarse.astype(np.float32)), size=size, mode="bilinear", align_corners=False
    )
    return fine[0].numpy()


def _paint(maps: SceneMaps, num_classes: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a color a class, shaded by offsets, with grain for PNGs to take time."""
    random = np.random.default_rng(seed)
    colors = random.integers(30, 226, (num_classes, 3))[maps.sem_seg[0].numpy()].astype(np.float32)
    shade = (maps.offset.sum(0).numpy() / 8).clip(-30, 30)[..., None]
    grain = random.normal(0, 4, colors.shape).astype(np.float32)
    return (colors + shade + grain).clip(0, 255).astype(np.uint8)
