"""A tiny training that has everything for loggers."""

import numpy as np
from PIL import Image

from panoptic_dl.loggers.base import Confusions, Details
from panoptic_dl.loggers.wandb import WandbLogger
from panoptic_dl.visualize.sheets import Sample
from tests.train.tiny_run import TinyEvaluation

NAMES = ("road", "car", "sky")


def wandb_logger(**changes):
    options = {"project": "tests", "name": "tiny", "init_timeout": 20.0, "finish_timeout": 20.0}
    return WandbLogger(**{**options, **changes})


def sample():
    truth = np.arange(12 * 16).reshape(12, 16) % 4 - 1  # -1 is void
    image = np.full((12, 16, 3), 200, np.uint8)
    return Sample("street", image, truth, np.zeros((12, 16), np.int64))


class Detailed(TinyEvaluation):
    """Figures that rise and fall, and all that comes with them."""

    def __call__(self, model, folder, **options):
        results = super().__call__(model, folder, **options)
        picture = folder / "worst.png"
        Image.new("RGB", (8, 8), (255, 0, 0)).save(picture)
        classes = {f"PQ-{name}": 10.0 * i for i, name in enumerate(NAMES)} | {"PQ-sky": np.nan}
        details = Details(
            results={"panoptic_seg": {"PQ": 1.0, **classes}},
            samples=[sample()],
            class_names=NAMES,
            confusions=Confusions(NAMES, np.arange(12).reshape(3, 4)),
            pictures=[picture],
        )
        figures = results["metrics"] | {"AP": float("nan")}
        return results | {"metrics": figures, "details": details}
