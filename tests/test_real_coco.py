"""Training steps on real COCO images at the published crop; skipped where there are none.

Looks for `$DETECTRON2_DATASETS/coco`, then `../shared/data/coco` beside the checkout.
"""

import itertools
import json
import os
from pathlib import Path

import pytest

from panoptic_dl.config import compose
from panoptic_dl.run import work

ROOT = Path(__file__).parents[1]
PLACES = [
    Path(p) for p in (os.environ.get("DETECTRON2_DATASETS"), ROOT.parent / "shared/data") if p
]
DATA = next((p for p in PLACES if (p / "coco/annotations/panoptic_train2017.json").is_file()), None)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="needs COCO: set DETECTRON2_DATASETS")
@pytest.mark.parametrize(
    ("backbone", "head"), list(itertools.product(("xception65", "hrnet48"), ("conv", "dsconv")))
)
def test_training_runs_at_the_published_crop(tmp_path, backbone, head):
    overrides = [f"backbone={backbone}", f"head={head}", "dataset=coco", f"dataset.root={DATA}"]
    numbers = ["train.iterations=1", "train.batch_size=1", "train.num_workers=0"]
    cfg = compose([*overrides, *numbers, "train.eval_at_end=false", f"run_dir={tmp_path}"])
    assert list(cfg.dataset.crop_size) == [640, 640]
    work("cpu", cfg, ())
    (line,) = (tmp_path / "metrics.json").read_text().splitlines()
    losses = json.loads(line)
    assert 0 < losses["total_loss"] < 100
    assert {"loss_sem_seg", "loss_center", "loss_offset"} <= set(losses)
