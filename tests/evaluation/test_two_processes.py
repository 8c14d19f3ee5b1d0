"""Two processes share a split; the first has the figures of all of it."""

import json
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm

from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.data.loader import test_loader as make_test_loader
from panoptic_dl.data.mapper import TestMapper
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    OfficialCityscapesSemanticEvaluator,
    OfficialCOCOInstanceEvaluator,
    OfficialPanopticEvaluator,
    OfficialSemanticEvaluator,
)
from tests.data.small import write_cityscapes, write_coco
from tests.evaluation.truth import predict


def measure(name, num_classes, thing_ids, evaluators):
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
        measure(
            cityscapes,
            19,
            set(range(11, 19)),
            [
                OfficialPanopticEvaluator(cityscapes),
                OfficialCityscapesSemanticEvaluator(cityscapes),
                OfficialCityscapesInstanceEvaluator(cityscapes),
            ],
        ),
        measure(
            coco,
            133,
            things,
            [OfficialPanopticEvaluator(coco), OfficialCOCOInstanceEvaluator(coco)],
        ),
        measure(
            semantic,
            133,
            things,
            [
                OfficialSemanticEvaluator(
                    dataset=semantic, read_truth=SemanticLabelReader(num_classes=133)
                )
            ],
        ),
    ]
    Path(folder, f"seen_{rank}.json").write_text(json.dumps(seen))
    torch.distributed.barrier()  # gloo aborts when the other process is still talking
    torch.distributed.destroy_process_group()


def test_two_processes_measure_the_whole_split(tmp_path):
    write_cityscapes(tmp_path, val=3)
    write_coco(tmp_path, val=3)
    torch.multiprocessing.spawn(evaluate_all, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    assert [(a["images"], b["images"]) for a, b in zip(first, second, strict=True)] == [(2, 1)] * 3
    assert [len(item["figures"]) for item in first] == [11, 11, 1]
    assert {value for item in first for value in item["figures"].values()} == {100.0}
    assert [item["figures"] for item in second] == [{}, {}, {}]
