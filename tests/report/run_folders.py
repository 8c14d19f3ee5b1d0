"""Makes folders as runs leave them behind: run.json, results.json, metrics.json, pictures."""

import json
import math
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

PARTS = ("dataset", "task", "backbone", "head")
CLASSES = ("road", "sky", "person", "car")
RECIPES = {
    "cityscapes_panoptic": (90_000, 32, 1e-3),
    "cityscapes_semantic": (90_000, 16, 1e-2),
    "coco_panoptic": (200_000, 64, 5e-4),
}


def make_run(folder: Path, row="cityscapes_panoptic_xception65_conv", **changes) -> Path:
    """A finished run of a row with `metrics`; `changes` replace keys of run.json.

    Further changes: `results`, `settings` (of the resolved config), `lines` (of metrics.json),
    `pictures` (names of images), None for none.
    """
    dataset, task, backbone, head = _parts(row)
    recipe = RECIPES.get(f"{dataset}_{task}", (500, 8, 1e-3))
    iterations, batch_size, lr = recipe
    seed = changes.get("seed", 0)
    metrics = changes.pop("metrics", {"PQ": 62.6, "mIoU": 79.4})
    results = changes.pop("results", None)
    settings = changes.pop("settings", {})
    lines = changes.pop("lines", steps(iterations, metrics))
    pictures = changes.pop("pictures", ())
    run = {
        "format": 1,
        "name": row,
        "mode": "train",
        "row": row,
        "choices": dict(zip(PARTS, (dataset, task, backbone, head), strict=True))
        | {"recipe": f"{dataset}_{task}"},
        "overrides": [f"experiment={row}"],
        "command": f"python run.py experiment={row} seed={seed}",
        "sweep": None,
        "seed": seed,
        "config_hash": f"{hash((row, seed)) & (1 << 64) - 1:016x}" * 4,
        "config_hash_any_seed": f"{row} {batch_size} {json.dumps(settings, sort_keys=True)}",
        "git": {"revision": "0123456789abcdef" * 2, "changed": False},
        "environment": {"python": "3.11.7", "torch": "2.15.0", "device": "a CPU", "devices": 0},
        "recipe": {"iterations": iterations, "batch_size": batch_size, "lr": lr},
        "train": {"iterations": iterations, "batch_size": batch_size, "precision": "fp32"},
        "published": None,
        "published_row": None,
        "published_note": None,
        "status": "finished",
        "error": None,
        "attempts": [
            {
                "started": "2026-01-01T10:00:00",
                "ended": "2026-01-01T12:00:00",
                "seconds": 7200.0,
                "status": "finished",
            }
        ],
        "wall_seconds": 7200.0,
        "device_hours": 2.0,
        "metrics": _json(metrics),
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    if results is not None or run["status"] == "finished":
        content = results or results_of(f"{dataset}_val", metrics)
        (folder / "results.json").write_text(json.dumps(content))
    resolved = {
        "seed": seed,
        "run_dir": str(folder),
        "backbone": {"kind": backbone},
        "train": {"batch_size": batch_size},
        "task": {"train_loader": {"seed": seed, "batch_size": batch_size}},
    }
    if settings is not None:
        (folder / ".hydra").mkdir(exist_ok=True)
        (folder / ".hydra" / "resolved.yaml").write_text(yaml.safe_dump(resolved | settings))
    if lines is not None:
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in pictures:
        make_pictures(folder, name)
    return folder


def make_pictures(folder: Path, name: str, size=(256, 512)) -> None:
    """The three pictures of an image, of drawn noise that JPEG cannot make small."""
    gallery = folder / "pictures" / "gallery"
    gallery.mkdir(parents=True, exist_ok=True)
    for index, kind in enumerate(("image", "truth", "prediction")):
        random = np.random.default_rng(abs(hash((str(folder), name, index))))
        pixels = random.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(gallery / f"{name}_{kind}.jpg", quality=95)


def results_of(dataset, metrics, classes=CLASSES):
    """results.json with metrics of classes that have the mean PQ (or mIoU)."""
    task, measure = ("panoptic_seg", "PQ") if "PQ" in metrics else ("sem_seg", "IoU")
    mean = next(iter(metrics.values()), math.nan)
    figures = {f"{measure}-{name}": mean + step for step, name in enumerate(classes, -1)}
    figures["-".join((measure, "train"))] = math.nan
    return {
        "dataset": dataset,
        "measured": {"iteration": 90_000, "scales": [1.0], "flip": False},
        "num_images": 5000 if dataset.startswith("coco") else 500,
        "metrics": _json(metrics),
        "results": {task: _json(figures)},
    }


def steps(iterations, metrics, count=50):
    """Lines of a training: losses that fall, and an evaluation in the middle and at the end."""
    found = []
    for number in range(1, count + 1):
        iteration = round(iterations * number / count) - 1
        loss = 4 * math.exp(-3 * number / count) + 1
        found.append(
            {
                "iteration": iteration,
                "total_loss": loss,
                "loss_sem_seg": 0.7 * loss,
                "loss_center": 0.2 * loss,
                "lr": 1e-3 * (1 - number / (count + 1)) ** 0.9,
                "time": 0.5,
                "images_per_s": 60.0 + number % 3,
                "host_memory_MiB": 4000.0 + number,
                "device_memory_MiB": 20_000.0 + number,
            }
        )
        if number in (count // 2, count):
            share = 0.8 if number < count else 1.0
            figures = {name: share * value for name, value in metrics.items()}
            found.append({"iteration": iteration, **_json(figures)})
    return found


def _parts(row):
    for dataset in ("toy_cityscapes", "toy_coco"):
        if row.startswith(dataset):
            task, backbone, head = row.removeprefix(f"{dataset}_").split("_", 2)
            if backbone == "hrnet" and head.startswith("tiny_"):
                return dataset, task, "hrnet_tiny", head.removeprefix("tiny_")
            return dataset, task, backbone, head
    parts = row.split("_")
    return parts if len(parts) == len(PARTS) else ("mine", "panoptic", "net", "x")


def _json(figures):
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
