"""Time stages on the device they run on."""

import time

import torch


class Stopwatch:
    """Milliseconds between laps: CUDA events on a GPU, the clock on a CPU.

    A lap on a GPU is a mark in its queue; nothing waits until `milliseconds` is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.marks = [self._mark()]

    def _mark(self) -> "torch.cuda.Event | float":
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        return time.perf_counter()

    def lap(self, name: str) -> None:
        """End the stage that began at the lap before, or when the watch was made."""
        self.marks.append(self._mark())
        self.names.append(name)

    def milliseconds(self) -> dict[str, float]:
        """Of each stage; waits for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return {
            name: _between(start, stop)
            for name, start, stop in zip(self.names, self.marks, self.marks[1:], strict=False)
        }


def _between(start: "torch.cuda.Event | float", stop: "torch.cuda.Event | float") -> float:
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float)
        assert isinstance(stop, float)
        return 1000 * (stop - start)
    return float(start.elapsed_time(stop))
