"""The training mappers against Detectron2's, on the same samples.

    python scripts/benchmark_data.py

Drawn streets in Cityscapes' format, 1024 x 2048 pixels, about 2.3 MB and 30 segments an image as in
Cityscapes; the published recipe. Or your own data, as `run.py` would train on it:

    python scripts/benchmark_data.py dataset=coco

    python scripts/benchmark_data.py --things 1000     streets with so many things in the labels
    python scripts/benchmark_data.py --archives        the streets in folders and in zip archives
    python scripts/benchmark_data.py --listed 118000   the start of a run with a JSON of so many

Prints CPU milliseconds of each stage on one core, samples a second of 1..n loader processes, and
bytes; draws the stages. It stops when a sample differs from Detectron2's.
"""

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, detection_utils
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from PIL import Image
from tabulate import tabulate

from panoptic_dl.config import build, compose
from panoptic_dl.core.archives import read_file
from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path
from panoptic_dl.core.images import colors_to_ids, ids_to_colors
from panoptic_dl.data import mapper as mappers
from panoptic_dl.data.loader import TrainLoader, keep_freed_memory
from panoptic_dl.data.sample_order import randomness_of
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.datasets.toy.cityscapes import ALL_CLASSES, toy_cityscapes
from panoptic_dl.report.benchmark import draw_stage_bars

WAYS = ("reference", "crop_first", "crop_first, cached")
COLORS = {
    "read and decode image": "#3566b0",
    "read and decode label": "#8fb3e0",
    "augment": "#d9a441",
    "targets": "#c8453b",
    "other": "#9aa5b1",
}
STAGES = tuple(COLORS)
ROUNDS = 3  # of which the best counts
THINGS = 18  # added to a drawn street, which has about 12 segments
NEW_ID = 40_000  # of the first; those of Cityscapes are below

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as of run.py; none: drawn streets")
    parser.add_argument("--samples", type=int, default=64, help="timed, of each way")
    parser.add_argument("--images", type=int, default=8, help="drawn")
    parser.add_argument("--things", type=int, default=THINGS, help="added to a drawn street")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="loader processes")
    parser.add_argument("--archives", action="store_true", help="compare folders and zip archives")
    parser.add_argument("--listed", type=int, metavar="N", help="time starts with N listed images")
    parser.add_argument("--output", type=local_path, default=Path("outputs/benchmark_data"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="benchmark_data_") as folder:
        overrides = arguments.overrides
        if arguments.listed:
            print(report_starts(Path(folder), arguments.listed, arguments.workers))
            return
        if not overrides:
            root = draw_streets(folder, arguments.images, tuple(arguments.size), arguments.things)
            overrides = ["dataset=cityscapes", f"dataset.root={root}"]
        if arguments.archives:
            print(report_archives(overrides, Path(folder), arguments.samples, arguments.workers))
            return
        cache = f"{folder}/cache"
        found = measure(overrides, cache, arguments.samples, arguments.workers)
    result = {"machine": describe_device("cpu"), "overrides": arguments.overrides, **found}
    print(report(result))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmark_data.json").write_text(json.dumps(result, indent=2) + "\n")
    draw_stage_bars(
        [(way, stages, sum(stages.values())) for way, stages in result["stages"].items()],
        COLORS,
        f"CPU milliseconds a sample, one core ({result['machine']})",
        arguments.output / "benchmark_data.png",
    )
    print(f"saved {arguments.output}/benchmark_data.json and .png")


def measure(
    overrides: list[str], cache: str, num_samples: int, workers: list[int]
) -> dict[str, Any]:
    """Compare the ways sample by sample, then time their stages, then their loaders."""
    config = compose(overrides)
    records = DatasetCatalog.get(build(config.task.train_loader.dataset))[: max(8, num_samples)]
    if config.task.evaluation.dataset == config.dataset.test.semantic and any(
        "sem_seg_file_name" not in record for record in records
    ):
        raise SystemExit("error: Detectron2 has no mapper for classes from panoptic labels")
    made = {way: make_mapper(config, way, cache) for way in WAYS}
    for position in range(2 * len(records)):  # each file twice, so that the cache has them all
        record = records[position % len(records)]
        samples = [draw(mapper, record, position) for mapper in made.values()]
        require_equal(samples[0], samples[1], record["file_name"])
        require_equal(samples[0], samples[2], record["file_name"])
    stages = {WAYS[0]: stage_times(made[WAYS[0]], records, num_samples)}
    keep_freed_memory()  # as our loader's processes do
    stages |= {way: stage_times(made[way], records, num_samples) for way in WAYS[1:]}
    rates = {
        str(number): {way: rate(made[way], records, number, num_samples) for way in WAYS}
        for number in workers
    }
    files = [record[key] for record in records for key in ("file_name", *label_keys(record))]
    kept = sum(file.stat().st_size for file in Path(cache).glob("*/*.npy"))
    return {
        "samples": num_samples,
        "images": len(records),
        "segments": float(np.mean([len(record.get("segments_info", ())) for record in records])),
        "stages": stages,
        "samples_per_second": rates,
        "file_MB": sum(Path(file).stat().st_size for file in files) / len(records) / 1e6,
        "cache_MB": kept / len(records) / 1e6,
    }


def label_keys(record: dict[str, Any]) -> Sequence[str]:
    """The entry that names the label which training reads."""
    return [key for key in ("pan_seg_file_name", "sem_seg_file_name") if key in record][:1]


def make_mapper(config: Any, way: str, cache: str) -> Mapper:
    """Detectron2's mapper with the same augmentations and numbers, or ours."""
    ours = config.task.train_loader.mapper
    if way != "reference":
        config = copy.deepcopy(config)
        config.dataset.cache.folder = cache if "cached" in way else None
        mapper: Mapper = build(config.task.train_loader.mapper)
        return mapper
    augmentations = build(ours.augmentations)
    if "thing_ids" not in ours:  # semantic
        return DatasetMapper(True, augmentations=augmentations, image_format=ours.image_format)
    generator = PanopticDeepLabTargetGenerator(
        ignore_label=ours.ignore_label,
        thing_ids=build(ours.thing_ids),
        sigma=ours.gaussian_sigma,
        ignore_stuff_in_offset=ours.ignore_stuff_in_offset,
        small_instance_area=ours.small_instance_area,
        small_instance_weight=ours.small_instance_weight,
        ignore_crowd_in_semantic=ours.ignore_crowd_in_semantic,
    )
    return PanopticDeeplabDatasetMapper(
        augmentations=augmentations,
        image_format=ours.image_format,
        panoptic_target_generator=generator,
    )


def draw(mapper: Mapper, record: dict[str, Any], position: int) -> dict[str, Any]:
    """The sample of a position in training."""
    with randomness_of(0, position):
        return mapper(record)


def require_equal(theirs: dict[str, Any], ours: dict[str, Any], file: str) -> None:
    for key, value in theirs.items():
        same = torch.equal(value, ours[key]) if torch.is_tensor(value) else value == ours[key]
        if not same:
            raise SystemExit(f"error: {key} of a sample of {file} differs from Detectron2's")


class Stages:
    """CPU seconds of this thread by stage; an inner stage's are not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.thread_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            passed = time.thread_time() - started
            self.seconds[name] += passed - self._inside.pop()
            self._inside[-1] += passed

    def timed(self, stage_of: Callable[..., str], function: Callable[..., Any]) -> Any:
        """`function`, its time counted for the stage that `stage_of` tells from its arguments."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            with self.stage(stage_of(*arguments)):
                return function(*arguments, **options)

        return wrapped


def stage_times(mapper: Any, records: list[dict[str, Any]], number: int) -> dict[str, float]:
    """CPU milliseconds a sample, by stage."""
    stages = Stages()
    images = {record["file_name"] for record in records}

    def of_file(file: str, *_: Any) -> str:
        return STAGES[0] if file in images else STAGES[1]

    def open_source(*arguments: Any) -> Any:
        source = opened(*arguments)
        source.rows = stages.timed(lambda *_: of_file(source.file), source.rows)
        return source

    with contextlib.ExitStack() as patches:
        if isinstance(mapper, (PanopticDeeplabDatasetMapper, DatasetMapper)):
            parts = ("augmentations", "augment"), ("panoptic_target_generator", "targets")
            read = stages.timed(of_file, detection_utils.read_image)
            patches.enter_context(patch.object(detection_utils, "read_image", read))
        else:
            parts = ("augment", "augment"), ("targets", "targets")
            opened = stages.timed(of_file, mappers.open_source)
            patches.enter_context(patch.object(mappers, "open_source", open_source))
        for name, stage in parts:
            if hasattr(mapper, name):
                part = stages.timed(lambda *_, stage=stage: stage, getattr(mapper, name))
                patches.enter_context(patch.object(mapper, name, part))
        for position in range(number):
            with stages.stage("other"):
                draw(mapper, records[position % len(records)], position)
    return {name: 1000 * stages.seconds[name] / number for name in STAGES}


def rate(mapper: Mapper, records: list[dict[str, Any]], workers: int, number: int) -> float:
    """Samples a second of the training loader, once it runs."""
    loader = TrainLoader(records=records, mapper=mapper, batch_size=4, num_workers=workers, seed=0)
    batches = iter(loader)
    for _ in range(2 * workers + 2):  # what was made while the processes started
        next(batches)
    started = time.perf_counter()
    for _ in range(max(1, number // 4)):
        next(batches)
    return 4 * max(1, number // 4) / (time.perf_counter() - started)


def draw_streets(folder: str, number: int, size: tuple[int, int], num_things: int = THINGS) -> str:
    """Streets in Cityscapes' format; softened as a camera's are, with more things in the labels."""
    root = toy_cityscapes(root=folder, num_train=number, num_val=1, size=size, classes=ALL_CLASSES)
    base = Path(root, "cityscapes")
    for file in base.glob("leftImg8bit/train/*/*.png"):
        with Image.open(file) as image:
            softened = cv2.GaussianBlur(np.asarray(image), (3, 3), 0)
        Image.fromarray(softened).save(file)
    listed = base / "gtFine" / "cityscapes_panoptic_train.json"
    content = json.loads(listed.read_bytes())
    random = np.random.default_rng(0)
    for annotation in content["annotations"]:
        _add_things(
            listed.with_suffix("") / annotation["file_name"], annotation, random, num_things
        )
    listed.write_text(json.dumps(content))
    return root


def _add_things(
    file: Path, annotation: dict[str, Any], random: np.random.Generator, num_things: int
) -> None:
    """Ellipses of cars, 30 to 120 pixels wide at 2048, over a label and in its list."""
    with Image.open(file) as image:
        ids = colors_to_ids(np.asarray(image))
    height, width = ids.shape
    for number in range(num_things):
        center = int(random.integers(width)), int(random.integers(height // 3, height))
        axes = [max(2, int(width * share)) for share in random.uniform(0.007, 0.03, 2)]
        mask = np.zeros(ids.shape, np.uint8)
        cv2.ellipse(mask, center, axes, 0, 0, 360, (1,), -1)
        ids[mask > 0] = NEW_ID + number
        annotation["segments_info"].append(
            {"id": NEW_ID + number, "category_id": 26, "iscrowd": 0, "area": 0, "bbox": [0] * 4}
        )
    Image.fromarray(ids_to_colors(ids)).save(file)


def report(result: dict[str, Any]) -> str:
    """Markdown."""
    stages, rates = result["stages"], result["samples_per_second"]
    totals = {way: sum(stages[way].values()) for way in WAYS}
    header = ["CPU ms a sample", *WAYS]
    rows = [[stage, *(f"{stages[way][stage]:.1f}" for way in WAYS)] for stage in STAGES]
    rows.append(["all", *(f"{totals[way]:.1f}" for way in WAYS)])
    rows.append(["times as fast", *(f"{totals['reference'] / totals[way]:.2f}" for way in WAYS)])
    for number, found in rates.items():
        name = f"samples/s, {number} loader process" + ("es" if number != "1" else "")
        rows.append([name, *(f"{found[way]:.1f}" for way in WAYS)])
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return (
        f"{result['machine']}; {result['images']} images, {result['segments']:.0f} segments and "
        f"{result['file_MB']:.2f} MB each, {result['cache_MB']:.2f} MB in the cache; all samples "
        f"equal\n{table}"
    )


def report_archives(overrides: list[str], folder: Path, number: int, workers: list[int]) -> str:
    """Markdown: samples of the same files in folders, and in archives that are made of them."""
    config = compose(overrides)
    records = DatasetCatalog.get(build(config.task.train_loader.dataset))[:]
    keys = ["file_name", *label_keys(records[0])]
    files = sorted({record[key] for record in records for key in keys})
    places = {"folders": ""}
    for name, method in (("zip, stored", zipfile.ZIP_STORED), ("zip", zipfile.ZIP_DEFLATED)):
        places[name] = f"{folder}/{method}.zip/"
        with zipfile.ZipFile(places[name][:-1], "w", method) as archive:
            for file in files:
                archive.write(file, file.lstrip("/"))
    mapper = make_mapper(config, "crop_first", "")
    best: dict[str, list[float]] = {}
    for _ in range(ROUNDS):  # in turn, for other programs may run beside
        for name, place in places.items():
            inside = [
                {**r, **{key: place + (r[key].lstrip("/") if place else r[key]) for key in keys}}
                for r in records
            ]
            started = time.thread_time()
            for file in files:
                read_file(place + (file.lstrip("/") if place else file))
            found = [-1000 * (time.thread_time() - started) / len(files)]
            stages = stage_times(mapper, inside, number)
            found.append(-stages[STAGES[0]] - stages[STAGES[1]])
            found += [rate(mapper, inside, count, number) for count in workers]
            best[name] = [*map(max, best.get(name, found), found)]
    rows = [[name, *(f"{abs(each):.1f}" for each in found)] for name, found in best.items()]
    header = [
        "files in",
        "bytes, CPU ms a file",
        "reading, CPU ms a sample",
        *(f"samples/s, {n} workers" for n in workers),
    ]
    return f"{describe_device('cpu')}\n" + tabulate(rows, header, "github", disable_numparse=True)


def report_starts(folder: Path, number: int, workers: list[int]) -> str:
    """Markdown: seconds and memory of starts with an annotation file as large as COCO's."""
    list_images(folder / "data", number)
    os.environ["PANOPTIC_DL_CACHE"] = str(folder / "cache")
    rows = []
    for name, count in [("first", workers[0]), *(("later", count) for count in workers)]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            found = pool.submit(start, str(folder / "data"), count).result()
        rows.append([name, count, *(f"{each:,.1f}" for each in found)])
    columns = "classes", "records", "loader", "first batch", "all, s", "peak, MB", "in use, MB"
    table = tabulate(rows, ["start", "workers", *columns], "github", disable_numparse=True)
    size = (folder / "data/annotations/panoptic_train.json").stat().st_size / 1e6
    return f"{describe_device('cpu')}; {number:,} images, {size:.0f} MB of JSON\n{table}"


def start(root: str, workers: int) -> list[float]:
    """Seconds of the steps of a start, without headers, and MB above those of the imports."""
    memory, resident, times = used_memory(), status("VmRSS"), [time.perf_counter()]
    classes = custom_classes(form="coco_format", root=root, train_split="train", test_split="val")
    times.append(time.perf_counter())
    options: Any = {"form": "coco_format", "task": "panoptic", "part": "train", "split": "train"}
    records = DatasetCatalog.get(custom_dataset(classes=classes, root=root, **options))
    times.append(time.perf_counter())
    loader = TrainLoader(records=records, mapper=dict, batch_size=8, num_workers=workers, seed=0)
    del records
    times.append(time.perf_counter())
    batches = iter(loader)
    next(batches)
    times.append(time.perf_counter())
    for _ in range(200):  # workers have touched what they touch
        next(batches)
    peak, in_use = status("VmHWM") - resident, used_memory() - memory
    return [*np.diff(times).tolist(), times[-1] - times[0], peak, in_use]


def status(key: str) -> float:
    """MB of this process, from the line `key` of its status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1e3


def used_memory() -> float:
    """MB of this process and its children; what they share counts once (Linux)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    files = [Path(f"/proc/{number}/smaps_rollup") for number in ("self", *children)]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def list_images(root: Path, number: int) -> None:
    """A dataset in coco_format with as many segments an image as COCO has; its files are empty."""
    random = np.random.default_rng(0)
    categories = [{"id": i, "name": f"class {i}", "isthing": int(i <= 80)} for i in range(1, 134)]
    for split, count in (("train", number), ("val", 10)):
        folders = root / split, root / f"panoptic_{split}"
        for folder in (*folders, root / "annotations"):
            folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for image in range(count):
            names = f"{image:012d}.jpg", f"{image:012d}.png"
            for folder, name in zip(folders, names, strict=True):
                (folder / name).touch()
            address = f"http://images.cocodataset.org/train2017/{names[0]}"
            entry = {"id": image, "file_name": names[0], "height": 480, "width": 640}
            images.append(entry | {"coco_url": address, "date_captured": "2013-11-14 17:02:52"})
            segments = [
                {"id": number, "category_id": category, "area": area, "iscrowd": 0, "bbox": box}
                for number, category, area, box in zip(
                    (random.choice(256**3 - 1, 11, replace=False) + 1).tolist(),
                    (random.permutation(133)[:11] + 1).tolist(),
                    random.integers(20, 90_000, 11).tolist(),
                    random.integers(0, 480, (11, 4)).tolist(),
                    strict=True,
                )
            ]
            annotations.append(
                {"image_id": image, "file_name": names[1], "segments_info": segments}
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
