"""Two processes write into one folder what one writes alone, and fail together."""

import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.dataset import KINDS, PredictionWriter
from panoptic_dl.predictions.folder import prediction_writers
from tests.predictions.datasets import coco_scenes, files_below, save, streets

SHARES = [[5, 0, 3], [4, 1, 2]]

CASES = {"coco": (coco_scenes, KINDS), "streets": (streets, ("instances", "semantic"))}


def share(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    for name, (make, kinds) in CASES.items():
        predicted = make(folder / f"data_{rank}", range(6))
        writers = prediction_writers(predicted.name, kinds, folder / "together" / name)
        for _ in range(2):  # the second time over the first
            for writer in writers:
                writer.reset()
            for index in SHARES[rank]:
                for writer in writers:
                    writer.process([predicted.items[index]], [predicted.outputs[index]])
            assert [writer.evaluate() for writer in writers] == [{}] * len(kinds)
            everything = [f for k in kinds for f in files_below(folder / "together" / name / k)]
            assert not [file for file in everything if Path(file).name.startswith(".")]
    fail_together(rank, predicted, folder)
    (folder / f"ended_{rank}").touch()
    torch.distributed.destroy_process_group()


def fail_together(rank: int, predicted, folder: Path) -> None:
    (writer,) = prediction_writers(predicted.name, "semantic", folder / "failing")
    writer.reset()
    writer.process(predicted.items, predicted.outputs)  # both have all
    with pytest.raises(EvaluationError, match="by more than one process"):
        writer.evaluate()
    coco = coco_scenes(folder / f"again_{rank}", range(2))
    (writer,) = prediction_writers(coco.name, "semantic", folder / "unmerged")
    writer.reset()
    writer.process([coco.items[rank]], [coco.outputs[rank]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictionWriter, "_finish", fail)
        with pytest.raises(EvaluationError, match="made" if rank == 0 else "the main process can"):
            writer.evaluate()
    torch.distributed.barrier()
    if rank == 0:
        (folder / "unmerged" / "semantic" / "mine.txt").touch()
    torch.distributed.barrier()
    with pytest.raises(EvaluationError, match="mine.txt" if rank == 0 else "the main process can"):
        writer.reset()


def fail(*_) -> None:
    raise EvaluationError("made to fail")


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    try:
        share(rank, Path(folder))
    except BaseException:
        traceback.print_exc()
        raise


def test_two_processes_write_what_one_writes(tmp_path):
    torch.multiprocessing.start_processes(
        work, args=(str(tmp_path),), nprocs=2, start_method="fork"
    )
    assert all((tmp_path / f"ended_{rank}").exists() for rank in (0, 1))
    for name, (make, kinds) in CASES.items():
        alone = tmp_path / "alone" / name
        save(make(tmp_path / "data", range(6)), kinds, alone)
        together = tmp_path / "together" / name
        assert files_below(together) == files_below(alone)
        assert files_below(alone)
        for file in files_below(alone):
            assert (together / file).read_bytes() == (alone / file).read_bytes(), file
