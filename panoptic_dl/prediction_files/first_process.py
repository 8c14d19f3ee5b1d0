"""Work that one process does for all: they wait for it, and fail with it."""

from collections.abc import Callable

import numpy as np
from detectron2.utils import comm

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.processes import sum_over_processes


def in_first_process(work: Callable[[], None], what: str) -> None:
    """Call `work` in the first process; return in all of them when it is done.

    Every process must call this.

    Args:
        work: what to do.
        what: says so in the others' error: "cannot <what>".

    Raises:
        EvaluationError: in the others, when it failed; in the first, whatever it raised.
    """
    failure: Exception | None = None
    if comm.is_main_process():
        try:
            work()
        except Exception as error:  # the others must not wait for ever, whatever it is
            failure = error
    (failures,) = sum_over_processes(np.array([failure is not None], dtype=np.int64))
    if failure is not None:
        raise failure
    if failures[0]:
        raise EvaluationError(f"the first process cannot {what}: its own message says why")
