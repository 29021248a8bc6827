"""How a run is asked to stop: by Ctrl-C or SIGTERM, which wait for the step at hand."""

import math
import signal
import threading
import time
from typing import final


@final
class Patience:
    """Ctrl-C or SIGTERM asks to stop after the step at hand; a second Ctrl-C stops at once, and the last checkpoint
    counts. (A launcher passes a Ctrl-C on, so that it comes twice: what comes within a second is one.)"""

    def __init__(self) -> None:
        self.asked = False
        self.when = math.inf

    def __enter__(self) -> "Patience":
        self.in_charge = threading.current_thread() is threading.main_thread()
        if self.in_charge:
            self.before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        if self.in_charge:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT and time.monotonic() > self.when + 1:
            raise KeyboardInterrupt("stopped at once; --resume goes on from the last checkpoint")
        self.asked, self.when = True, min(self.when, time.monotonic())
