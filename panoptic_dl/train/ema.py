"""An exponential moving average (EMA) of the weights, and an evaluation of both.

Polyak & Juditsky 1992, as networks use it (Tarvainen & Valpola 2017). The average of step n is
`d * average + (1 - d) * weights` with d = min(decay, (1 + n) / (10 + n)): TensorFlow's warm-up,
without which a short run's average would still be its random beginning.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from panoptic_dl.core.files import save_state
from panoptic_dl.core.run_folder import AVERAGE
from panoptic_dl.report.results import comparison_of_weights
from panoptic_dl.train.checkpoint import writing

FOLDER = "ema"  # of the average's results in the run's folder; prefix of its metrics' names

logger = logging.getLogger(__name__)


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """`copy_` of each pair, on a GPU in a few kernels for all."""
    for floating in (True, False):
        pairs = zip(targets, sources, strict=True)
        alike = [pair for pair in pairs if pair[0].is_floating_point() == floating]
        if alike:
            torch._foreach_copy_([to for to, _ in alike], [of for _, of in alike])


class WeightAverage:
    """The average of a model's parameters and running statistics, under the model's names.

    It takes the memory of the weights once more, and no second model: for an evaluation the two
    are swapped. Make it of the model itself, not of a wrapper, when that is on its device;
    each process of a run keeps the same average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`decay`: the average's weight at each step, in (0, 1); 0.9999 remembers 10,000 steps."""
        self.model, self.decay = model, decay
        self.num_updates = 0
        # By weight, whose hash is its identity: one that two names share is averaged once.
        self._averages = {raw: raw.detach().clone() for raw in self._named().values()}
        self._raws = [raw.detach() for raw in self._averages]
        self._means = list(self._averages.values())

    def _named(self) -> dict[str, Tensor]:
        state = self.model.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def begin(self) -> None:
        """Set the average to the current weights, before the first step."""
        copy_all(self._means, self._raws)

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        pairs = [*zip(self._means, self._raws, strict=True)]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        # Counters of batches: the newest is the right one.
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        means, raws = ([pair[i] for pair in floats] for i in (0, 1))
        get_ema_multi_avg_fn(decay)(means, raws, self.num_updates)  # type: ignore[arg-type]
        copy_all([mean for mean, _ in counters], [raw for _, raw in counters])
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights inside; the raw ones return bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        kept = [raw.clone() for raw in self._raws]
        copy_all(self._raws, self._means)
        copy_all(self._means, kept)

    def weights(self) -> dict[str, Tensor]:
        """The average, by the names that the model's own state_dict has."""
        return {name: self._averages[raw] for name, raw in self._named().items()}

    def state_dict(self) -> dict[str, Any]:
        """`model`, the average by the model's names, and `num_updates`."""
        return {"model": self.weights(), "num_updates": self.num_updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's average; ValueError if it is of other weights."""
        own, saved = self.weights(), state["model"]
        if own.keys() != saved.keys() or any(own[n].shape != saved[n].shape for n in own):
            raise ValueError("its averaged weights (train.ema) are those of another model")
        for name, mean in own.items():
            mean.copy_(saved[name])
        self.num_updates = int(state["num_updates"])

    def save(self, run_dir: Path) -> None:
        """Write the average as a weights file, atomically; OSError leaves the one from before."""
        with writing("the averaged weights", run_dir / AVERAGE, "stop"):
            save_state(run_dir / AVERAGE, {"model": self.weights()})
        logger.info("Saved the moving average of the weights: %s", run_dir / AVERAGE)


class UpdateAverage(HookBase):
    """Updates the average after each step that changed the weights."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def before_train(self) -> None:
        """Begin anew, unless a checkpoint's average is there: weights may have been loaded."""
        if self.average.num_updates == 0:
            self.average.begin()

    def after_step(self) -> None:
        if not self.trainer.skipped:
            self.average.update()


def evaluate_both(
    evaluation: Callable[..., dict[str, Any]],
    model: nn.Module,
    average: WeightAverage | None,
    run_dir: Path,
    iterations: int,
) -> dict[str, Any]:
    """Evaluate the weights, then their moving average, whose results go to `run_dir/ema`.

    `evaluation` is called as `evaluation(model, folder, source=...)` in every process. Returns the
    results of the raw weights, whose `metrics` have those of the average too, as `ema/PQ`; {}
    where `evaluation` returns that (all processes but the main one).
    """
    source: dict[str, Any] = {"iteration": iterations}
    results = evaluation(model, run_dir, source=source)
    if average is None:
        return results
    logger.info("Now the same with the moving average of the weights (train.ema)")
    with average.applied():
        of_average = evaluation(
            model, run_dir / FOLDER, source=source | {"weights": "moving average"}
        )
    if not results:
        return results
    rows = {"weights": results["metrics"], "moving average": of_average["metrics"]}
    logger.info("Weights and their moving average\n%s", comparison_of_weights(rows))
    metrics = {f"{FOLDER}/{name}": value for name, value in of_average["metrics"].items()}
    return {**results, "metrics": {**results["metrics"], **metrics}, FOLDER: of_average}
