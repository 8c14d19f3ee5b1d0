"""Hand every image of a split to a model, and what it says to evaluators."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.utils import comm
from torch import nn

from .progress import Progress

Batch = list[dict[str, Any]]
Model = Callable[[Batch], Batch]


def predict(model: Model, batches: Iterable[Batch], evaluators: Iterable[DatasetEvaluator]) -> None:
    """Process all `batches` of this process, in the model's evaluation mode.

    Args:
        model: a module, which gets back the mode it was in; or a function of a batch.
        batches: have a length, of images.
        evaluators: each gets every batch and its outputs.
    """
    evaluators = list(evaluators)
    size = comm.get_world_size()
    progress = Progress(
        len(batches),  # type: ignore[arg-type]
        what=f"evaluated by the first of {size} processes" if size > 1 else "evaluated",
        shown=comm.is_main_process(),
    )
    mode = inference_context(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    try:
        with mode, torch.no_grad():
            for inputs in batches:
                outputs = model(inputs)
                for evaluator in evaluators:
                    evaluator.process(inputs, outputs)
                progress.add(len(inputs))
    finally:
        progress.close()


class RecordsOfProcess:
    """The records of a dataset that fall to this process, one a batch, without their images."""

    def __init__(self, dataset: str) -> None:
        self.records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
        self.positions = list(InferenceSampler(len(self.records)))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Batch]:
        for position in self.positions:
            yield [self.records[position]]
