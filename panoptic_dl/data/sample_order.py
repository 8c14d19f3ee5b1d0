"""Which image comes when: one endless order for all processes, a function of seed and position.

Every draw has a position, counted from 0 over the whole run and over all processes. What happens to
a sample depends on (seed, position) alone: not on the process or loader worker that prepares it,
nor on whether the run was interrupted in between.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

Draw = tuple[int, int]  # (index of the image in its dataset, position of the draw)


class SampleOrder:
    """Groups of draws: shuffled epochs, each image once in each, upright and lying ones apart.

    As in Detectron2, an image waits until as many of its shape have come as a group takes. The
    state (`state_dict`) is the position and the draws that wait, so it can be taken up with another
    group size.

    Args:
        num_images: images of the dataset.
        group_size: draws of one group, the images of one forward pass.
        seed: decides the order.
        shapes: a label for each image; images of different labels never share a group. None: any
            may.
    """

    def __init__(
        self, num_images: int, group_size: int, seed: int, shapes: Sequence[int] | None = None
    ) -> None:
        self.num_images, self.group_size, self.seed = num_images, group_size, seed
        self._shapes = [0] * num_images if shapes is None else list(shapes)
        self._position = 0
        self._waiting: dict[int, list[Draw]] = {shape: [] for shape in sorted(set(self._shapes))}
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __iter__(self) -> "SampleOrder":
        return self

    def __next__(self) -> list[Draw]:
        while True:
            for draws in self._waiting.values():
                if len(draws) >= self.group_size:
                    group = draws[: self.group_size]
                    del draws[: self.group_size]
                    return group
            epoch, place = divmod(self._position, self.num_images)
            if epoch != self._epoch:
                self._epoch = epoch
                self._permutation = generator_of(self.seed, epoch).permutation(self.num_images)
            index = int(self._permutation[place])
            self._waiting[self._shapes[index]].append((index, self._position))
            self._position += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for a checkpoint."""
        waiting = [list(draw) for draws in self._waiting.values() for draw in draws]
        return {"num_images": self.num_images, "position": self._position, "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: it is of a dataset with another number of images.
        """
        if state["num_images"] != self.num_images:
            raise ValueError(
                f"the checkpoint was trained on {state['num_images']} images and the dataset has "
                f"{self.num_images}: resume with the dataset that the run was started with"
            )
        self._position = state["position"]
        for draws in self._waiting.values():
            draws.clear()
        for index, position in state["waiting"]:
            self._waiting[self._shapes[index]].append((index, position))


def generator_of(*numbers: int) -> np.random.RandomState:
    """NumPy's frozen generator (the same stream in every version), seeded with several numbers."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(numbers)))


@contextlib.contextmanager
def randomness_of(*numbers: int) -> Iterator[None]:
    """Inside, the global generators of NumPy, Python and torch's CPU depend on `numbers` alone.

    Outside they go on as if nothing had been drawn.
    """
    words = np.random.SeedSequence(numbers).generate_state(4)
    outside = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    np.random.seed(words)  # noqa: NPY002
    random.seed(words.tobytes())
    torch.random.default_generator.manual_seed(int(words[0]))
    try:
        yield
    finally:
        np.random.set_state(outside[0])  # noqa: NPY002
        random.setstate(outside[1])
        torch.set_rng_state(outside[2])
