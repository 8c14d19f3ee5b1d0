"""Images and network outputs of drawn scenes, for measuring speed without a dataset or weights.

Legend: K classes, H W pixels.
"""

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scene_maps import SceneMaps, scene_maps


class BenchmarkScenes:
    """Scenes of one size: files to read and decode, and what a trained network would say of them.

    Args:
        size: (H, W) in pixels.
        num_scenes: how many different ones there are.
        num_things: things drawn in each; about six of seven have a centre of their own.
        num_classes, thing_ids: contiguous category ids; the first eight that are no things are the
            stuff. Where all are things, some are the ground as well; where none is, none is drawn.
        sigma: of the peaks of the heatmap, in pixels.
        file_format: `png` or `jpg`, as the dataset has its images.
        seed: of the scenes.

    Raises:
        ValueError: of a number or format that makes no scene.
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
        if len(size) != 2 or min(size) < 32:
            raise ValueError(f"benchmark.image_size={list(size)} must be [H, W], both at least 32")
        if file_format not in ("png", "jpg"):
            raise ValueError(f"file_format={file_format} is unknown; choose png or jpg")
        if num_scenes < 1:
            raise ValueError(f"benchmark.num_scenes={num_scenes} must be at least 1")
        if num_things < 0:
            raise ValueError(f"benchmark.num_things={num_things} must be at least 0")
        self.size = (int(size[0]), int(size[1]))
        self.num_scenes = num_scenes
        self.num_things = num_things if len(thing_ids) else 0
        self.num_classes = num_classes
        self.thing_ids = tuple(thing_ids)
        stuff = [i for i in range(num_classes) if i not in set(thing_ids)]
        self.stuff_ids = (stuff or list(thing_ids))[:8]
        self.sigma = sigma
        self.seed = seed or 0
        # The folder goes when the scenes do.
        self._folder = tempfile.TemporaryDirectory(prefix="panoptic_dl_scenes_")
        self._records = [self._write(i, file_format) for i in range(num_scenes)]

    def __len__(self) -> int:
        return self.num_scenes

    def record(self, index: int) -> dict[str, Any]:
        """File name, size and id of an image in Detectron2's dataset format."""
        return dict(self._records[index % len(self)])

    def maps(self, index: int) -> SceneMaps:
        """What a trained network would say of that image."""
        return _scene(
            self.size,
            self.num_things,
            self.thing_ids,
            tuple(self.stuff_ids),
            self.sigma,
            self.seed + index % self.num_scenes,
        )

    def _write(self, index: int, file_format: str) -> dict[str, Any]:
        file = Path(self._folder.name, f"scene_{index:03d}.{file_format}")
        Image.fromarray(_paint(self.maps(index), self.num_classes, self.seed + index)).save(file)
        height, width = self.size
        return {"file_name": str(file), "height": height, "width": width, "image_id": index}


@lru_cache(maxsize=8)
def _scene(
    size: tuple[int, int],
    num_things: int,
    thing_ids: tuple[int, ...],
    stuff_ids: tuple[int, ...],
    sigma: float,
    seed: int,
) -> SceneMaps:
    return scene_maps(
        size, num_things, thing_ids=thing_ids, stuff_ids=stuff_ids, sigma=sigma, seed=seed
    )


def _paint(maps: SceneMaps, num_classes: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a colour for each class, shaded by the offsets, with grain as cameras have.

    The grain matters: without it a PNG is decoded in a fraction of the time of a photograph's.
    """
    random = np.random.default_rng(seed)
    colors = random.integers(30, 226, (num_classes, 3))[maps.sem_seg[0].numpy()].astype(np.float32)
    shade = (maps.offset.sum(0).numpy() / 8).clip(-30, 30)[..., None]
    grain = random.normal(0, 4, colors.shape).astype(np.float32)
    painted: np.ndarray = (colors + shade + grain).clip(0, 255).astype(np.uint8)
    return painted
