"""Post-processing against Detectron2's, on the same scenes in one run: time, memory, equality.

    python scripts/benchmark_postprocess.py                # 1024 x 2048, Cityscapes' classes
    python scripts/benchmark_postprocess.py --dataset coco # 480 x 640, COCO's classes
    python scripts/benchmark_postprocess.py --contended    # with two busy processes beside

Two comparisons for each scene: `get_panoptic_segmentation` alone, and all that follows the network
(classes from logits, the panoptic map, instances with scores). Ratios are Detectron2 / ours.
"""

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.projects.panoptic_deeplab import PanopticDeepLab as Detectron2Model
from tabulate import tabulate

from panoptic_dl.core.environment import describe_device, peak_memory, reset_peak_memory
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.modes.scene_maps import SceneMaps, scene_maps
from panoptic_dl.postprocess import argmax_classes, get_panoptic_segmentation
from panoptic_dl.postprocess.panoptic import detectron2_segmentations, find_peaks

DATASETS: dict[str, dict[str, Any]] = {
    "cityscapes": {
        "size": (1024, 2048),
        "num_classes": 19,
        "thing_ids": tuple(range(11, 19)),
        "stuff_ids": (10, 8, 2, 1, 0),
        "sigma": 10.0,
        "stuff_area": 2048,
        "nms_kernel": 7,
    },
    "coco": {
        "size": (480, 640),
        "num_classes": 133,
        "thing_ids": tuple(range(80)),
        "stuff_ids": (119, 116, 123, 100),
        "sigma": 8.0,
        "stuff_area": 4096,
        "nms_kernel": 41,
    },
}
COMMON: dict[str, Any] = {"label_divisor": 1000, "threshold": 0.1, "top_k": 200}


class Stub(Backbone):
    """Parts of a model that hand on what they are given."""

    common_stride = 1

    def __init__(self, *outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"image": ShapeSpec(channels=1, stride=1)}

    def forward(self, *inputs: Any) -> Any:
        return self.outputs


def whole_ours(maps: SceneMaps, logits: torch.Tensor, data: dict[str, Any]) -> Callable[[], Any]:
    """All that follows the network, by `PanopticDeepLab.postprocess`."""
    model = PanopticDeepLab(
        backbone=Stub(),
        sem_seg_head=lambda input_shape: Stub(),
        ins_embed_head=lambda input_shape: Stub(),
        pixel_mean=[0.0],
        pixel_std=[1.0],
        thing_ids=data["thing_ids"],
        stuff_area=data["stuff_area"],
        nms_kernel=data["nms_kernel"],
        center_threshold=COMMON["threshold"],
        top_k=COMMON["top_k"],
        label_divisor=COMMON["label_divisor"],
    )
    network = (logits[None], maps.center[None], maps.offset[None])
    return lambda: model.postprocess(network, [data["size"]], [{}])[0]


def whole_reference(
    maps: SceneMaps, logits: torch.Tensor, data: dict[str, Any]
) -> Callable[[], Any]:
    """All that follows the network, by the forward pass of Detectron2's model on stub parts."""
    height, width = logits.shape[1:]
    stub = SimpleNamespace(
        backbone=Stub(),
        sem_seg_head=Stub(logits[None], {}),
        device=logits.device,
        pixel_mean=torch.zeros(1, 1, 1, device=logits.device),
        pixel_std=torch.ones(1, 1, 1, device=logits.device),
        training=False,
        size_divisibility=1,
        meta=SimpleNamespace(
            thing_dataset_id_to_contiguous_id={i: i for i in data["thing_ids"]},
            label_divisor=COMMON["label_divisor"],
        ),
        stuff_area=data["stuff_area"],
        nms_kernel=data["nms_kernel"],
        threshold=COMMON["threshold"],
        top_k=COMMON["top_k"],
        predict_instances=True,
        benchmark_network_speed=False,
    )
    image = torch.zeros(1, height, width, device=logits.device)

    def run() -> Any:
        heads = Stub(maps.center[None], maps.offset[None], {}, {})
        stub.ins_embed_head = heads
        inputs = [{"image": image, "height": height, "width": width}]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
            return Detectron2Model.forward(stub, inputs)[0]

    return run


def measure(
    work: Callable[[], Any], repeats: int, device: torch.device
) -> tuple[Any, float, float]:
    """Result, median milliseconds, and peak MiB above what was there before."""
    before = reset_peak_memory(device)
    result = work()
    synchronize(device)
    peak = peak_memory(device) - before
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - started))
    return result, statistics.median(times), peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def same_instances(ours: Any, theirs: Any) -> bool:
    """Classes, masks and boxes equal; scores but for the last digits of a mean."""
    return (
        torch.equal(ours.pred_classes, theirs.pred_classes.to(ours.pred_classes.device))
        and torch.equal(ours.pred_masks, theirs.pred_masks.to(ours.pred_masks.device))
        and torch.equal(
            ours.pred_boxes.tensor, theirs.pred_boxes.tensor.to(ours.pred_boxes.tensor.device)
        )
        and torch.allclose(ours.scores, theirs.scores.to(ours.scores.device), rtol=1e-5, atol=0)
    )


def compare(data: dict[str, Any], count: int, arguments: argparse.Namespace) -> list[dict]:
    device = torch.device(arguments.device)
    kinds = {key: data[key] for key in ("thing_ids", "stuff_ids", "sigma")}
    maps = SceneMaps(*(part.to(device) for part in _crowd(count, data, kinds, arguments.seed)))
    logits = maps.logits(data["num_classes"])
    assert torch.equal(argmax_classes(logits), maps.sem_seg[0])
    numbers: dict[str, Any] = {
        "stuff_area": data["stuff_area"],
        "nms_kernel": data["nms_kernel"],
        **COMMON,
    }
    numbers |= {"thing_ids": data["thing_ids"], "void_label": -1}
    rows = []
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "panoptic map": (
            lambda: get_panoptic_segmentation(*maps, **numbers),
            lambda: detectron2_segmentations(
                [maps.sem_seg], [maps.center], [maps.offset], **numbers
            )[0],
        ),
        "all after the network": (
            whole_ours(maps, logits, data),
            whole_reference(maps, logits, data),
        ),
    }
    for part, (ours, theirs) in pairs.items():
        result, milliseconds, peak = measure(ours, arguments.repeats, device)
        row = {"part": part, "centers": 0, "ours_ms": milliseconds, "ours_peak_MiB": peak}
        if not arguments.ours_only:
            expected, reference_ms, reference_peak = measure(
                theirs, arguments.reference_repeats, device
            )
            row |= {"reference_ms": reference_ms, "reference_peak_MiB": reference_peak}
            row["speedup"] = reference_ms / milliseconds
            if part == "panoptic map":
                row["equal"] = all(map(torch.equal, result, expected))
            else:
                row["equal"] = torch.equal(
                    result["panoptic_seg"][0], expected["panoptic_seg"][0]
                ) and same_instances(result["instances"], expected["instances"])
        if part == "panoptic map":
            num_centers = result[1].shape[1]
        row["centers"] = num_centers
        rows.append(row)
    return rows


def _spin() -> None:
    while True:
        pass


def _crowd(count: int, data: dict[str, Any], kinds: dict[str, Any], seed: int) -> SceneMaps:
    """A scene with at least `count` centers: some things hide others, and some peaks merge."""
    num_things = count
    while True:
        maps = scene_maps(data["size"], num_things, **kinds, seed=seed)
        peaks = find_peaks(maps.center[0], COMMON["threshold"], data["nms_kernel"])
        if peaks.sum() >= count:
            return maps
        num_things += max(1, count // 12)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, default="cityscapes")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels")
    parser.add_argument("--centers", type=int, nargs="+", default=[50, 100], help="at least")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of ours; the median")
    parser.add_argument("--reference-repeats", type=int, default=1)
    parser.add_argument("--ours-only", action="store_true", help="without Detectron2")
    parser.add_argument(
        "--contended", action="store_true", help="with two busy processes beside both sides"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="write the figures there too"
    )
    arguments = parser.parse_args()
    if arguments.contended:
        for _ in range(2):  # they end with this process
            multiprocessing.get_context("fork").Process(target=_spin, daemon=True).start()
    torch.set_num_threads(arguments.threads)
    data = dict(DATASETS[arguments.dataset])
    data["size"] = tuple(arguments.size or data["size"])

    small = argparse.Namespace(**vars(arguments) | {"repeats": 1, "ours_only": True})
    compare(data | {"size": (64, 96)}, 3, small)  # first calls start threads and load kernels
    rows = [row for count in arguments.centers for row in compare(data, count, arguments)]
    machine = describe_device(arguments.device)
    size = f"{data['size'][0]} x {data['size'][1]} pixels, {data['num_classes']} classes"
    print(f"{machine}; {size}{'; two busy processes beside' if arguments.contended else ''}")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g"))
    if arguments.json:
        text = json.dumps({"machine": machine, "size": data["size"], "rows": rows}, indent=2)
        arguments.json.write_text(text + "\n")
    if not all(row.get("equal", True) for row in rows):
        raise SystemExit("error: results differ from Detectron2's")


if __name__ == "__main__":
    main()
