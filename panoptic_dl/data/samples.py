"""The samples of training, by draw; what becomes of an image that cannot be read."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.utils.data

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.sample_order import Draw, generator_of, randomness_of

BAD = "bad_samples"  # entry of a sample: what it stands in for, {file name of the image: error}
ATTEMPTS = 100  # at finding a readable image, before the dataset is given up


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """`samples[index, position]`: the mapper's sample, drawn with the randomness of the position.

    Args:
        records: Detectron2's dataset dicts.
        mapper: makes a sample from a record.
        seed: of the run.
        max_bad: 0: an image that cannot be read is an error. Else another stands in, which seed and
            position choose, and `BAD` in the sample says so; more such images are an error.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        *,
        max_bad: int = 0,
    ) -> None:
        self.records, self.mapper, self.seed, self.max_bad = records, mapper, seed, max_bad

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, position = draw
        bad: dict[str, str] = {}
        choice = generator_of(self.seed, position)
        for attempt in range(ATTEMPTS):
            record = self.records[index]
            try:
                with randomness_of(self.seed, position):
                    sample = self.mapper(record)
                return sample | {BAD: bad} if bad else sample
            except DatasetError as error:
                bad[str(record.get("file_name", index))] = str(error)
                if len(bad) > self.max_bad or attempt == ATTEMPTS - 1:
                    raise
                index = int(choice.randint(len(self.records)))
        raise AssertionError("unreachable")
