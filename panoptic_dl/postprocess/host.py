"""Numbers that the host needs from the device, for one image or for all of a batch at once.

Reading a number off a GPU waits for all work before it. Functions that need some are coroutines:
they yield a small tensor and receive its values. Several of them take turns, so that a batch waits
as often as a single image does.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Numbers = list[int]
Result = TypeVar("Result")


def finish(tasks: Sequence[Generator[Tensor, Numbers, Result]]) -> list[Result]:
    """Run coroutines to their ends and return their results.

    Each round collects the (n,) int64 tensors of all that are still running (n may differ) into one
    transfer to the host.
    """
    results: dict[int, Result] = {}
    answers: dict[int, Numbers | None] = dict.fromkeys(range(len(tasks)))
    while answers:
        questions: dict[int, Tensor] = {}
        for number, answer in answers.items():
            try:
                # The first send must be None: it starts the coroutine.
                questions[number] = tasks[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as stop:
                results[number] = stop.value
        if not questions:
            break
        values = iter(torch.cat(list(questions.values())).tolist())
        answers = {number: [next(values) for _ in q] for number, q in questions.items()}
    return [results[number] for number in range(len(tasks))]
