"""Our streaming evaluators against Detectron2's official ones, on the same predictions in one run.

    python scripts/benchmark_evaluation.py                        # 10 and 200 images of 1024 x 2048
    python scripts/benchmark_evaluation.py --images 4 --many 8 --size 256 512    # a quick look

Drawn streets in Cityscapes' format, a few scenes under many names; predictions are their truth with
errors. Each side runs in a process of its own and is given PQ, IoU and AP together; only the
evaluators' own calls are timed. The run stops when a metric differs. Ratios are Detectron2 / ours.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
)
from detectron2.structures import BitMasks, Instances
from tabulate import tabulate

from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path
from panoptic_dl.core.images import read_panoptic_ids
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.toy.cityscapes import ALL_CLASSES, toy_cityscapes
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.evaluator import ThreadedEvaluator
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    pair_up,
    require_agreement,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator

NUM_SCENES = 5
NUM_INSTANCES = 30  # predicted in an image
THINGS, NUM_CLASSES, DIVISOR = range(11, 19), 19, 1000
SIDES = ("official", "streaming")


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=10, help="images that are timed")
    parser.add_argument("--many", type=int, default=200, help="images for the growth of memory")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=2, help="threads of either side")
    parser.add_argument(
        "--network", type=float, default=0.1, help="seconds of a network that runs elsewhere"
    )
    parser.add_argument(
        "--output", type=local_path, default=Path("outputs/benchmark_evaluation.json")
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        warnings.simplefilter("ignore")
        torch.set_num_threads(arguments.threads)
        print(
            json.dumps(
                measure(arguments.side, arguments.root, arguments.threads, arguments.network)
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="benchmark_evaluation_") as folder:
        scenes = toy_cityscapes(
            root=str(Path(folder, "scenes")),
            num_train=1,
            num_val=NUM_SCENES,
            size=tuple(arguments.size),
            classes=ALL_CLASSES,
        )
        measured: dict[str, dict[int, dict[str, Any]]] = {side: {} for side in SIDES}
        for number in (arguments.images, arguments.many):
            root = Path(folder, f"of_{number}")
            repeat(Path(scenes, "cityscapes"), root / "cityscapes", number)
            for side in SIDES:
                print(f"{side}: {number} images ...", file=sys.stderr, flush=True)
                measured[side][number] = run_side(side, root, arguments.threads, 0.0)
                if number == arguments.images:
                    with_network = run_side(side, root, arguments.threads, arguments.network)
                    measured[side][number]["with_network"] = with_network["wall"]
            own, theirs = (measured[side][number]["results"] for side in reversed(SIDES))
            require_agreement(pair_up(own, theirs))
            shutil.rmtree(root)
    print(report(measured, arguments))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": describe_device("cpu")} | measured) + "\n")
    print(f"saved {arguments.output}")


def repeat(scenes: Path, target: Path, number: int) -> None:
    """A split of `number` images under names of their own, by hard links to the drawn scenes."""
    images = sorted(scenes.glob("leftImg8bit/val/*/*_leftImg8bit.png"))
    panoptic = "gtFine/cityscapes_panoptic_val"
    listed = json.loads((scenes / f"{panoptic}.json").read_bytes())
    annotations = {item["image_id"]: item for item in listed["annotations"]}
    (target / panoptic).mkdir(parents=True)
    listed["images"], listed["annotations"] = [], []
    for index in range(number):
        image = images[index % len(images)]
        old = image.name.removesuffix("_leftImg8bit.png")
        city, new = image.parent.name, f"{image.parent.name}_{index:06d}_000019"
        for source in (
            *scenes.glob(f"leftImg8bit/val/{city}/{old}_*"),
            *scenes.glob(f"gtFine/val/{city}/{old}_*"),
        ):
            link = target / source.relative_to(scenes).with_name(source.name.replace(old, new))
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, link)
        annotation = annotations[old]
        file = annotation["file_name"].replace(old, new)
        os.link(scenes / panoptic / annotation["file_name"], target / panoptic / file)
        listed["annotations"].append(annotation | {"image_id": new, "file_name": file})
        listed["images"].append({"id": new, "file_name": f"{new}_gtFine_leftImg8bit.png"})
    (target / f"{panoptic}.json").write_text(json.dumps(listed))


def run_side(side: str, root: Path, threads: int, network: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--root", str(root)]
    command += ["--network", str(network)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, "--threads", str(threads)], env=environment, check=True, stdout=subprocess.PIPE
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(side: str, root: str, threads: int, network: float) -> dict[str, Any]:
    """Time and memory of one side's evaluators, and what they say.

    Before each image the calling thread sleeps for `network` seconds: the network of a GPU.
    """
    name = cityscapes_panoptic(root=root, split="val")
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    outputs = [predict(record, seed) for seed, record in enumerate(records[:NUM_SCENES])]
    evaluator = (
        official_evaluators(name) if side == "official" else streaming_evaluators(name, threads)
    )
    evaluator.reset()
    before = resident()
    peak = before
    wall, cpu = time.perf_counter(), cpu_seconds()
    for index, record in enumerate(records):
        time.sleep(network)
        output = dict(outputs[index % NUM_SCENES])
        # A copy for either side: Detectron2's evaluator adds 1 to the map that it is given.
        output["panoptic_seg"] = (output["panoptic_seg"][0].clone(), None)
        evaluator.process([record], [output])
        peak = max(peak, resident())
    after = resident()
    results = evaluator.evaluate()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {
        "results": {
            task: {key: float(value) for key, value in figures.items()}
            for task, figures in (results or {}).items()
        },
        "wall": wall / len(records),
        "cpu": cpu / len(records),
        "growth": (after - before) / 2**20,
        "peak": (peak - before) / 2**20,
        "instances": float(np.mean([len(output["instances"]) for output in outputs])),
    }


def official_evaluators(name: str) -> DatasetEvaluator:
    """Detectron2's; of its instance AP the wrapper that keeps its JSON, which it cannot write."""
    folder = tempfile.mkdtemp(prefix="official_", dir=Path(MetadataCatalog.get(name).gt_dir))
    return DatasetEvaluators(
        [
            COCOPanopticEvaluator(name, folder),
            CityscapesSemSegEvaluator(name),
            OfficialCityscapesInstanceEvaluator(name),
        ]
    )


def streaming_evaluators(name: str, threads: int) -> DatasetEvaluator:
    return ThreadedEvaluator(
        [
            StreamingPanopticEvaluator(name),
            StreamingCityscapesSemanticEvaluator(name),
            StreamingCityscapesInstanceEvaluator(name),
        ],
        num_threads=threads,
    )


def predict(record: dict[str, Any], seed: int) -> dict[str, Any]:
    """The truth a few pixels aside, some segments of another class, as a model's output."""
    draw = np.random.default_rng(seed)
    ids = np.roll(read_panoptic_ids(record["pan_seg_file_name"]), draw.integers(1, 9, 2), (0, 1))
    panoptic = np.full(ids.shape, -1, dtype=np.int64)
    for number, segment in enumerate(record["segments_info"], 1):
        category = segment["category_id"]
        if draw.random() < 0.1:
            category = int(draw.integers(NUM_CLASSES))
        panoptic[ids == segment["id"]] = category * DIVISOR + number * (category in THINGS)
    classes = torch.from_numpy(np.where(panoptic < 0, 0, panoptic // DIVISOR))
    scores = torch.randn(NUM_CLASSES, *ids.shape, generator=torch.Generator().manual_seed(seed))
    scores.scatter_add_(0, classes[None], torch.full((1, *ids.shape), 6.0))
    things = [label for label in np.unique(panoptic) if label >= 0 and label // DIVISOR in THINGS]
    found = [panoptic == label for label in things]
    categories = [int(label) // DIVISOR for label in things]
    while len(found) < NUM_INSTANCES:  # drawn streets are emptier than real ones: false positives
        mask = np.zeros(ids.shape, dtype=bool)
        top, left = draw.integers(0, ids.shape[0]), draw.integers(0, ids.shape[1])
        mask[top : top + ids.shape[0] // 20, left : left + ids.shape[1] // 40] = True
        found.append(mask)
        categories.append(int(draw.choice(THINGS)))
    masks = torch.from_numpy(np.stack(found))
    instances = Instances(
        ids.shape,
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.tensor(categories),
        scores=torch.from_numpy(draw.random(len(found))),
    )
    return {
        "panoptic_seg": (torch.from_numpy(panoptic), None),
        "sem_seg": scores,
        "classes": scores.argmax(dim=0),  # as the model's post-processing leaves them
        "instances": instances,
    }


def cpu_seconds() -> float:
    """Of this process and of those that it has started and seen end."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def report(measured: dict[str, dict[int, dict[str, Any]]], arguments: argparse.Namespace) -> str:
    rows = []
    for number in measured["official"]:
        theirs, own = (measured[side][number] for side in SIDES)
        for key, name in (("cpu", "CPU-seconds an image"), ("wall", "seconds an image")):
            rows.append([f"{number} images: {name}", theirs[key], own[key], theirs[key] / own[key]])
        for key, name in (("growth", "memory kept, MiB"), ("peak", "peak memory, MiB")):
            rows.append([f"{number} images: {name}", theirs[key], own[key], None])
        if "with_network" in own:
            name = f"seconds an image, with {arguments.network} s of a network elsewhere"
            both = theirs["with_network"], own["with_network"]
            rows.append([f"{number} images: {name}", *both, both[0] / both[1]])
    height, width = arguments.size
    instances = measured["streaming"][arguments.images]["instances"]
    return "\n".join(
        [
            f"PQ + IoU + AP at {height} x {width}, {instances:.0f} instances an image, "
            f"{arguments.threads} threads; {describe_device('cpu')}",
            tabulate(rows, ["", "Detectron2", "ours", "ratio"], "github", floatfmt=".3f"),
            "all metrics agree (PQ, IoU to 1e-12; AP to 1e-9)",
        ]
    )


if __name__ == "__main__":
    main()
