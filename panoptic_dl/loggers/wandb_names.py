"""What figures are called in Weights & Biases: the part before the slash is a section there."""

from .interface import Figures

MAIN = ("PQ", "SQ", "RQ", "mIoU", "AP", "box_AP", "mask_AP")  # with a best and a last one
SECTIONS = {
    "time": "speed",
    "data_time": "speed",
    "images_per_s": "speed",
    "host_memory_MiB": "memory",
    "device_memory_MiB": "memory",
}


def of_step(figures: Figures) -> dict[str, float]:
    """`total_loss` becomes `train/total_loss`; `lr` stays."""
    return {
        name if name == "lr" else f"{SECTIONS.get(name, 'train')}/{name}": value
        for name, value in figures.items()
        if name != "iteration"
    }


def of_evaluation(figures: Figures) -> dict[str, float]:
    """`PQ` becomes `eval/PQ`, the moving average's `ema/PQ` becomes `eval/ema/PQ`."""
    return {f"eval/{name}": value for name, value in figures.items() if name != "iteration"}


def step_number(iteration: int, *, evaluation: bool) -> int:
    """W&B's own step, which may only grow: a pair of them for each iteration.

    The same line always has the same one, so that a run that goes on knows what W&B has already.
    """
    return 2 * (iteration + 1) + evaluation
