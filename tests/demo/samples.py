"""Runs as training leaves them, small and of random weights; images and videos."""

from types import SimpleNamespace

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.demo.demo import demo
from panoptic_dl.modes.benchmark import _init_statistics
from tests.runs import SMALL

ROW = [
    *SMALL,
    "dataset=toy_cityscapes",
    "dataset.stuff_area=16",
    "dataset.center_threshold=0.02",
    "dataset.root.root=/nowhere/at/all",  # a model needs no dataset
]


def make_run(folder, *overrides):
    """Write config and weights of a run; return its model."""
    config = compose([*ROW, f"run_dir={folder}", *overrides])
    torch.manual_seed(0)
    model = build(config.task.model).eval()
    images = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        _init_statistics(model, lambda: model.network(images))
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return SimpleNamespace(folder=folder, model=model, config=config)


def scene(height, width, seed=0):
    """(H, W, 3) RGB: blobs of many colors."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_video(file, frames=12, size=(48, 64), fps=12.5, code="mp4v"):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*code), fps, size[::-1])
    for number in range(frames):
        writer.write(np.full((*size, 3), 20 * number % 256, np.uint8))
    writer.release()
    return file


def run_demo(run, inputs, run_dir, *, weights=None, **settings):
    """What mode=demo calls, with the parts of a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = {"num_workers": 2, **settings}
    return demo(
        device="cpu",
        model=lambda: build(run.config.task.model),
        mapper=lambda: build(run.config.task.evaluation.loader.mapper),
        classes=lambda: build(run.config.dataset.classes),
        weights=str(run.folder if weights is None else weights),
        inputs=inputs if isinstance(inputs, (list, int, type(None))) else str(inputs),
        run_dir=str(run_dir),
        row="a_row",
        settings=settings,
    )


def files(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
