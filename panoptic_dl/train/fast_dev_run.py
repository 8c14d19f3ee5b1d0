"""A rehearsal: everything a run does, in a few iterations and on a few images; no results."""

import dataclasses
import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from panoptic_dl.core.settings import CheckpointSettings, TrainSettings

NUM_ITERATIONS = 4
Batch = list[dict[str, Any]]
NUM_IMAGES = 4
FOLDER = "fast_dev_run"  # below the run's own, which stays free for the real run


class FirstImages:
    """The first batches of each process's share of a split, about `NUM_IMAGES` altogether.

    All processes must make it together.

    Attributes:
        total: images of all processes.
        records: of these images, in Detectron2's format.
        said: "4 of 500 images".
    """

    def __init__(self, dataset: str, loader: Iterable[Batch], limit: int = NUM_IMAGES) -> None:
        """
        Args:
            dataset: its name in Detectron2's catalogs.
            loader: of the whole split, an image a batch, in the order of an `InferenceSampler`.
            limit: images altogether, or one for each process where there are more of these.
        """
        self._loader = loader
        records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
        share = list(InferenceSampler(len(records)))[: -(-limit // comm.get_world_size())]
        self._number = len(share)
        positions = sorted(itertools.chain(*comm.all_gather(share)))
        self.total = len(positions)
        self.records = [records[position] for position in positions]
        self.said = f"{self.total} of {len(records)} images"

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self._loader, self._number)


def shortened(
    settings: TrainSettings, saving: CheckpointSettings
) -> tuple[TrainSettings, CheckpointSettings]:
    """The settings of a rehearsal: evaluated and saved in the middle, and at the end."""
    iterations = min(NUM_ITERATIONS, settings.iterations)  # a schedule has no rate beyond its end
    half = max(1, iterations // 2)
    short = dataclasses.replace(
        settings, iterations=iterations, log_period=1, eval_period=half, eval_at_end=True
    )
    return short, dataclasses.replace(saving, period=half)


def fresh_folder(run_dir: str) -> str:
    """An empty folder for a rehearsal, in place of that of the one before; for all processes."""
    folder = Path(run_dir, FOLDER)
    if comm.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    comm.synchronize()
    return str(folder)
