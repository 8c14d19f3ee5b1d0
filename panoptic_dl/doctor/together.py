"""Several processes: the first makes the checks, the others wait, and take the steps with it."""

import time
from collections.abc import Callable
from functools import partial

from detectron2.utils import comm

from .patient import Patient
from .verdicts import Verdict

PERIOD = 60.0  # seconds; processes that hear nothing for half an hour give up
WAIT, END = "wait", "end"

Step = Callable[[Patient], Verdict | None]


class Leader:
    """The first process's word to the others."""

    def __init__(self) -> None:
        self._spoken = time.monotonic()
        self._lost = False  # a step failed here: nobody knows where the others are

    def keep_waiting(self) -> None:
        """Call it as often as you like."""
        if time.monotonic() - self._spoken > PERIOD:
            self._say(WAIT)

    def take(self, name: str, step: Step, patient: Patient) -> Verdict | None:
        """Take a step together with all others."""
        self._say(name)
        try:
            return step(patient)
        except BaseException:
            self._lost = True
            raise

    def dismiss(self) -> None:
        """The others may end."""
        if not self._lost:
            self._say(END)

    def _say(self, word: str) -> None:
        if comm.get_world_size() > 1:
            comm.all_gather(word)
        self._spoken = time.monotonic()


def follow(steps: dict[str, Step], patient: Patient) -> None:
    """What the other processes do. A step that fails ends the process, and with it the run."""
    while (word := comm.all_gather(None)[0]) != END:
        if word != WAIT:
            steps[word](patient)


def together(leader: Leader, name: str, step: Step) -> Step:
    """A check that all processes take part in."""
    return partial(leader.take, name, step)
