"""What does a trained start bring? `python scripts/compare_pretraining.py WEIGHTS FOLDER`.

Two pairs of trainings on COCO ($DETECTRON2_DATASETS/coco), which differ in their start alone:

* MobileNetV2 from torchvision's ImageNet weights, the file WEIGHTS, and from random ones;
* HRNet-18 from a run that knows three images by heart, and from random weights, on other classes.

Runs lie in FOLDER; those that are finished are not run again. Draws FOLDER/finetuning.png and
prints a Markdown table: docs/how-to/finetuning.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor
from torchvision.models import mobilenet_v2

from panoptic_dl.core.errors import WeightsError, one_line_errors
from panoptic_dl.core.files import local_path, read_json
from panoptic_dl.visualize.charts import BLUE, GRID, YELLOW
from panoptic_dl.weights.files import read_weights
from subset_coco import subset

ROOT = Path(__file__).parents[1]
# Images at half of their size, and a head of a quarter of the width.
IMAGENET = (
    *("backbone=timm", "backbone.name=mobilenetv2_100", "head=dsconv", "dataset=coco_format"),
    *("task=semantic", "optimizer=adam", "head.aspp_channels=64", "head.semantic.decoder_dim=64"),
    *("dataset.crop_size=[256,256]", "dataset.min_sizes=[224,256,288]", "dataset.max_size=384"),
    *("dataset.min_size_test=256", "dataset.max_size_test=384"),
    *("recipe_record.iterations=400", "recipe_record.batch_size=4", "recipe_record.lr=1.0e-3"),
    *("recipe_record.warmup_iters=20", "task.train_loader.aspect_ratio_grouping=false"),
    *("train.num_workers=1", "train.log_period=10", "train.eval_period=100"),
)
IMAGES = [34, 72, 502]  # those of docs/explanation/overfitting.md
OTHER_CLASSES = {  # of what is in these images
    **{"bear": "bear", "zebra": "hoofed animal", "giraffe": "hoofed animal"},
    **dict.fromkeys(("tree-merged", "rock-merged"), "surroundings"),
    "grass-merged": "grass-merged",
}
MOVED = (
    *("experiment=coco_overfit", "dataset=coco_format", "dataset.loss_top_k=1.0"),
    *("recipe_record.iterations=80", "train.log_period=5", "train.eval_period=20"),
)
QUIET = (
    *("logger=none", "evaluation.charts=false"),
    *("evaluation.picture_count=0", "evaluation.best_and_worst=0"),
)

Curves = dict[str, list[tuple[int, float]]]
"""Losses and metrics of a run by their names, each as (iteration, value)."""


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's MobileNetV2 by timm's names; both list the same layers in the same order.

    Raises:
        WeightsError: a tensor is missing, or of another shape.
    """
    with torch.device("meta"):
        theirs, ours = mobilenet_v2(), timm.create_model("mobilenetv2_100")
    converted = {}
    for name, (new, expected) in zip(theirs.state_dict(), ours.state_dict().items(), strict=True):
        if name not in tensors or tensors[name].shape != expected.shape:
            raise WeightsError(
                f"these are not weights of torchvision's mobilenet_v2, which has {name} with the "
                f"shape {tuple(expected.shape)}: give its mobilenet_v2-b0353104.pth"
            )
        converted[new] = tensors[name]
    return converted


def write_classes(annotations: Path, file: Path, names: Mapping[str, str]) -> None:
    """Write COCO panoptic annotations with other classes.

    Args:
        names: the new class of each old one, by their names; several may become one. Other classes
            must not occur in the annotations.
    """
    tree = read_json(annotations)
    old = {category["id"]: category for category in tree["categories"]}
    new = {names[c["name"]]: c for c in old.values() if c["name"] in names}  # any of those merged
    for annotation in tree["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = new[names[old[segment["category_id"]]["name"]]]["id"]
    tree["categories"] = [category | {"name": name} for name, category in new.items()]
    file.write_text(json.dumps(tree))


def train(run_dir: Path, *overrides: str) -> Curves:
    """Train, unless that is done, and read what the run has written."""
    if not (run_dir / "results.json").is_file():
        command = [sys.executable, "run.py", *overrides, *QUIET, f"run_dir={run_dir}"]
        print(*command[1:], flush=True)
        if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"error: a run failed: {run_dir}")
    curves: Curves = {}
    for line in (run_dir / "metrics.json").read_text().splitlines():
        figures = json.loads(line)
        for name, value in figures.items():
            curves.setdefault(name, []).append((figures["iteration"] + 1, value))
    return curves


def draw(pairs: Mapping[str, Mapping[str, Curves]], file: Path) -> None:
    """Write a PNG: losses above metrics, a column for each pair of runs."""
    figure = Figure(figsize=(10, 5.6), dpi=130, layout="constrained")
    columns = figure.subplots(2, 2, sharex="col").T
    for (losses, metrics), (title, runs) in zip(columns, pairs.items(), strict=True):
        for color, (start, curves) in zip((BLUE, YELLOW), runs.items(), strict=True):
            look = {"color": color, "label": start}
            losses.plot(*zip(*curves["total_loss"], strict=True), **look)
            metric = "PQ" if "PQ" in curves else "mIoU"
            metrics.plot(*zip(*curves[metric], strict=True), marker="o", **look)
            metrics.set_ylabel(metric)
        losses.set_title(title, fontsize=11, loc="left")
        losses.set_ylabel("training loss")
        metrics.set_xlabel("iterations")
        metrics.set_ylim(bottom=0)
        for axes in (losses, metrics):
            axes.grid(color=GRID)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=9)
    figure.savefig(file)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=local_path, help="torchvision's mobilenet_v2-b0353104.pth")
    parser.add_argument("folder", type=local_path, help="of the runs")
    options = parser.parse_args()
    folder = options.folder.resolve()
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    imagenet, small, by_heart = folder / "imagenet.safetensors", folder / "small", folder / "heart"
    save_file(to_timm(read_weights(options.weights).tensors), imagenet)
    if not small.exists():
        subset(datasets, small, "train2017", IMAGES, 0)

    annotations = datasets / "coco" / "annotations"
    categories = read_json(annotations / "panoptic_train2017.json")["categories"]
    merged = {category["name"]: category["supercategory"] for category in categories}
    for split in ("train", "val"):
        write_classes(annotations / f"panoptic_{split}2017.json", folder / f"{split}.json", merged)
    few = small / "coco/annotations/panoptic_train2017.json"
    write_classes(few, folder / "other.json", OTHER_CLASSES)

    def data(coco: Path, train: str, test: str) -> list[str]:
        files = [f"dataset.train_json={folder / train}", f"dataset.test_json={folder / test}"]
        return [f"dataset.root={coco}", *files]

    first = [*IMAGENET, *data(datasets / "coco", "train.json", "val.json")]
    second = [*MOVED, *data(small / "coco", "other.json", "other.json")]
    train(by_heart, "experiment=coco_overfit", f"dataset.root={small}")
    pairs = {
        "MobileNetV2, 27 classes": {
            "ImageNet": train(folder / "imagenet", *first, f"weights={imagenet}"),
            "random": train(folder / "imagenet_random", *first),
        },
        "HRNet-18, three images, four classes": {
            "by heart": train(
                folder / "moved", *second, f"weights={by_heart}", "weights_match=transfer"
            ),
            "random": train(folder / "moved_random", *second),
        },
    }
    draw(pairs, folder / "finetuning.png")
    rows = [
        [title, start, *(f"{curves[n][-1][1]:.1f}" if n in curves else "" for n in ("mIoU", "PQ"))]
        for title, runs in pairs.items()
        for start, curves in runs.items()
    ]
    print(tabulate(rows, ["training", "start", "mIoU", "PQ"], "github", disable_numparse=True))


if __name__ == "__main__":
    main()
