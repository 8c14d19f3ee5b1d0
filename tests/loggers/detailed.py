"""An evaluation with all that comes with it: classes, samples, drawn pictures."""

import json

import numpy as np
from PIL import Image

from panoptic_dl.loggers.base import Details
from panoptic_dl.visualize.sheets import Sample
from tests.train.tiny_run import TinyEvaluation

NAMES = ("road", "car", "sky")
COLORS = ((200, 200, 200), (0, 0, 255), (0, 255, 0))  # of image, ground truth, prediction


def plain(color):
    return np.full((12, 16, 3), color, np.uint8)


class Detailed(TinyEvaluation):
    """Figures that rise and fall, and all that comes with them."""

    def __call__(self, model, folder, **options):
        results = super().__call__(model, folder, **options)
        picture = folder / "worst.png"
        Image.new("RGB", (8, 8), (255, 0, 0)).save(picture)
        classes = {f"PQ-{name}": 10.0 * i for i, name in enumerate(NAMES)} | {"PQ-sky": np.nan}
        details = Details(
            results={"panoptic_seg": {"PQ": 1.0, **classes}},
            samples=[Sample("street", *map(plain, COLORS))],
            pictures=[folder / "predictions.png", picture],
        )
        figures = results["metrics"] | {"AP": float("nan")}
        return results | {"metrics": figures, "details": details}


def write_facts(folder):
    """A config and a run.json as a run of the program has them."""
    about = {"choices": {"backbone": "hrnet48", "head": "conv", "recipe": None, "mode": "train"}}
    about |= {"sweep": "cityscapes", "git": {"revision": "abc", "changed": False}}
    about |= {"format": 1, "status": "running", "attempts": [], "mode": "train"}
    about["overrides"] = ["backbone=hrnet48", "optimizer.lr=5e-2", "+x@y=1", "logger.csv.z=1"]
    (folder / "run.json").write_text(json.dumps(about))
    (folder / ".hydra").mkdir()
    config = "optimizer: {lr: 0.05, betas: [0.9, 0.99], _target_: x}\nseed: 7\n"
    (folder / ".hydra" / "resolved.yaml").write_text(config)
