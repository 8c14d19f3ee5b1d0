"""Results do not depend on how many processes share a split, nor on who has how much of it."""

import json
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.distributed import concatenate_over_processes, sum_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.data.loader import test_loader as make_test_loader
from panoptic_dl.data.mapper import TestMapper
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    StreamingCityscapesSemanticEvaluator,
)
from panoptic_dl.evaluation.coco_instances import StreamingCOCOInstanceEvaluator
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    OfficialCityscapesSemanticEvaluator,
    OfficialCOCOInstanceEvaluator,
    OfficialPanopticEvaluator,
    OfficialSemanticEvaluator,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from tests.datasets.tiny_datasets import write_cityscapes, write_coco
from tests.evaluation.coco_scenes import predict_scenes, register_coco, truth_of_scenes
from tests.evaluation.model_outputs import predict
from tests.evaluation.scenes import (
    instance_predictions,
    panoptic_scene,
    semantic_scores,
    write_panoptic,
    write_street_labels,
)

NUM_IMAGES = 9
SHARDS = {  # images of each process
    1: [range(9)],
    2: [[8], range(8)],
    3: [[3, 1, 0, 2, 8], [], [7, 4, 5, 6]],
}


def register(name: str, records: list[dict]) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)


def make_panoptic(folder: Path):
    scenes = [panoptic_scene(seed) for seed in range(NUM_IMAGES)]
    records = []
    for index, scene in enumerate(scenes):
        file = folder / "truth" / f"{index}.png"
        if not file.exists():
            write_panoptic(scene, folder, str(index))
        records.append(
            {
                "image_id": index,
                "pan_seg_file_name": str(file),
                "segments_info": scene.segments,
            }
        )
    register("shared_panoptic", records)
    MetadataCatalog.get("shared_panoptic").set(
        stuff_classes=list("abcdef"),
        thing_dataset_id_to_contiguous_id={1: 1, 3: 3, 5: 5},
        stuff_dataset_id_to_contiguous_id={0: 0, 2: 2, 4: 4},
        label_divisor=1000,
    )
    outputs = [{"panoptic_seg": (torch.from_numpy(scene.panoptic), None)} for scene in scenes]
    return StreamingPanopticEvaluator("shared_panoptic"), records, outputs


def street_files(folder: Path) -> tuple[list[str], list[dict]]:
    labels = folder / "gtFine"
    if not labels.exists():
        for seed in range(NUM_IMAGES):
            write_street_labels(labels, seed)
    MetadataCatalog.get("shared_streets").gt_dir = str(labels)
    files = sorted(labels.glob("*/*_labelIds.png"))
    images = [file.name.removesuffix("_gtFine_labelIds.png") for file in files]
    return images, [{"file_name": f"{image}_leftImg8bit.png"} for image in images]


def make_cityscapes_semantic(folder: Path):
    images, records = street_files(folder)
    outputs = [
        {"sem_seg": semantic_scores(folder / "gtFine", image, seed)}
        for seed, image in enumerate(images)
    ]
    return StreamingCityscapesSemanticEvaluator("shared_streets"), records, outputs


def make_cityscapes_instances(folder: Path):
    images, records = street_files(folder)
    outputs = [
        {"instances": instance_predictions(folder / "gtFine", image, seed)}
        for seed, image in enumerate(images)
    ]
    metadata = MetadataCatalog.get("shared_streets")
    metadata.thing_classes = [label.name for label in EVALUATED]
    return StreamingCityscapesInstanceEvaluator("shared_streets"), records, outputs


def make_semantic(folder: Path):
    files = [str(folder / f"label{index}_{os.getpid()}.png") for index in range(NUM_IMAGES)]
    records = [{"file_name": str(i), "sem_seg_file_name": f} for i, f in enumerate(files)]
    labels = np.random.default_rng(0).integers(0, 5, (NUM_IMAGES, 6, 7), dtype=np.uint8)
    for file, label in zip(files, labels, strict=True):
        Image.fromarray(label).save(file)
    register("shared_labels", records)
    MetadataCatalog.get("shared_labels").set(stuff_classes=list("abcd"), ignore_label=4)
    generator = torch.Generator().manual_seed(0)
    outputs = [{"sem_seg": torch.rand(4, 6, 7, generator=generator)} for _ in records]
    return StreamingSemanticEvaluator("shared_labels"), records, outputs


def make_coco_instances(folder: Path):
    content = truth_of_scenes(NUM_IMAGES, seed=0)
    name = register_coco(content, folder, "shared_instances")
    records = DatasetCatalog.get(name)
    return StreamingCOCOInstanceEvaluator(name), records, predict_scenes(content, seed=0)


Made = tuple[DatasetEvaluator, list[dict], list[dict]]
MAKERS: list[Callable[[Path], Made]] = [
    make_panoptic,
    make_cityscapes_semantic,
    make_cityscapes_instances,
    make_semantic,
    make_coco_instances,
]


def measure(folder: Path, world_size: int, rank: int) -> list[dict | None]:
    results = []
    for make in MAKERS:
        evaluator, records, outputs = make(folder)
        for index in SHARDS[world_size][rank]:
            evaluator.process([records[index]], [outputs[index]])
        results.append(evaluator.evaluate())
        evaluator.reset()
        if rank != world_size - 1:  # nobody has the images of the last process
            for index in SHARDS[world_size][rank]:
                evaluator.process([records[index]], [outputs[index]])
        with pytest.raises(EvaluationError, match="no prediction for image"):
            evaluator.evaluate()
        evaluator.reset()
        evaluator.process([records[0]], [outputs[0]])  # everybody has the first
        if rank == 0:
            evaluator.process(records[1:], outputs[1:])
        if world_size > 1:
            with pytest.raises(EvaluationError, match="by more than one process"):
                evaluator.evaluate()
    return results


def work(rank: int, folder: str) -> None:
    """One of three processes, of which the first works alone, two together, then all."""
    torch.set_num_threads(1)
    try:
        for world_size in SHARDS:
            if rank < world_size:
                share(rank, Path(folder), world_size)
    except BaseException:
        traceback.print_exc()
        raise


def share(rank: int, folder: Path, world_size: int) -> None:
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous_{world_size}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=120),
        )
    (total,) = sum_over_processes(np.full((2, 3), rank + 1, dtype=np.int64))
    assert total.tolist() == [[world_size * (world_size + 1) // 2] * 3] * 2
    rows = concatenate_over_processes(np.full((2 * rank, 2), rank + 0.1))
    assert rows[:, 1].tolist() == [r + 0.1 for r in range(world_size) for _ in range(2 * r)]
    seen = measure(folder, world_size, rank)
    (folder / f"seen_{world_size}_{rank}.json").write_text(json.dumps(seen))
    if world_size > 1:
        torch.distributed.destroy_process_group()


def test_figures_are_the_same_to_the_last_bit(tmp_path):
    """Compared as text: NaN equals NaN, and nothing is close."""
    for make in MAKERS:
        make(tmp_path)  # the files
    torch.multiprocessing.start_processes(
        work, args=(str(tmp_path),), nprocs=max(SHARDS), start_method="fork"
    )
    alone = (tmp_path / "seen_1_0.json").read_text()
    results = [next(iter(result.values())) for result in json.loads(alone)]
    assert len(results) == len(MAKERS)
    for figures in results:
        assert figures["num_images"] == NUM_IMAGES
        assert 0 < headline_figure(figures) < 100
    for world_size in (2, 3):
        assert (tmp_path / f"seen_{world_size}_0.json").read_text() == alone
        for rank in range(1, world_size):
            seen = json.loads((tmp_path / f"seen_{world_size}_{rank}.json").read_text())
            assert seen == [None] * len(MAKERS)


def headline_figure(figures: dict[str, float]) -> float:
    return next(figures[name] for name in ("PQ", "mIoU", "IoU", "AP") if name in figures)


def measure_official(name, num_classes, thing_ids, evaluators):
    records = {record["file_name"]: record for record in DatasetCatalog.get(name)}
    loader = make_test_loader(dataset=name, mapper=TestMapper(augmentations=[]), num_workers=0)

    def model(inputs):
        return [predict(records[item["file_name"]], num_classes, thing_ids) for item in inputs]

    results = inference_on_dataset(model, loader, DatasetEvaluators(evaluators))
    return {"images": len(loader), "figures": headline(results)}


def evaluate_all(rank: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    cityscapes = cityscapes_panoptic(root=folder, split="val")
    coco, semantic = (make(root=folder, split="val") for make in (coco_panoptic, coco_semantic))
    things = set(range(80))
    seen = [
        measure_official(
            cityscapes,
            19,
            set(range(11, 19)),
            [
                OfficialPanopticEvaluator(cityscapes),
                OfficialCityscapesSemanticEvaluator(cityscapes),
                OfficialCityscapesInstanceEvaluator(cityscapes),
            ],
        ),
        measure_official(
            coco,
            133,
            things,
            [OfficialPanopticEvaluator(coco), OfficialCOCOInstanceEvaluator(coco)],
        ),
        measure_official(
            semantic,
            133,
            things,
            [OfficialSemanticEvaluator(semantic)],
        ),
    ]
    Path(folder, f"seen_{rank}.json").write_text(json.dumps(seen))
    torch.distributed.barrier()  # gloo aborts when the other process is still talking
    torch.distributed.destroy_process_group()


def test_two_processes_measure_the_whole_split(tmp_path):
    write_cityscapes(tmp_path, val=3)
    write_coco(tmp_path, val=3)
    torch.multiprocessing.start_processes(
        evaluate_all, args=(str(tmp_path),), nprocs=2, start_method="fork"
    )
    first, second = (json.loads((tmp_path / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    assert [(a["images"], b["images"]) for a, b in zip(first, second, strict=True)] == [(2, 1)] * 3
    assert [len(item["figures"]) for item in first] == [11, 11, 1]
    assert {value for item in first for value in item["figures"].values()} == {100.0}
    assert [item["figures"] for item in second] == [{}, {}, {}]
