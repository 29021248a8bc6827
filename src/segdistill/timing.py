"""Where the time of a step goes: data, teacher, student, backward, optimiser; on a GPU without waiting for it."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import final

import torch


@final
class Stopwatch:
    """Seconds by part, summed until they are read.

    On a GPU the parts are marked by events, so that nothing waits before the sums are read; there a part is what the
    device does of it, and `data` (which it does not do) is what the host waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        if self.device.type == "cuda" and name != "data":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self.marks.append((name, begin, end))
            return
        start = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - start)

    def read(self) -> dict[str, float]:
        """The sums since the last time."""
        for name, begin, end in self.marks:
            end.synchronize()
            self._add(name, begin.elapsed_time(end) / 1000)
        found, self.seconds, self.marks = self.seconds, {}, []
        return found

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
