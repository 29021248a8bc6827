"""What the runs of a study are doing, as a table at the terminal that is drawn anew; read from the runs' own logs."""

import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple, Self, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from segdistill.mistakes import Mistake
from segdistill.run import Run
from segdistill.study import Job

RECENT = 20
"""Lines of a log whose seconds per step tell how long the rest takes."""


class Progress(NamedTuple):
    """How far a run has come."""

    step: int
    steps: int
    mean_iou: float | None
    """The newest of the networks that learn, the first of them; a fraction."""
    seconds: float | None
    """That training still takes, without validation."""


def progress(job: Job) -> Progress:
    """Of a run that another process trains now; of what cannot be read nothing is known."""
    try:
        lines = Run(job.run).log()
    except (Mistake, OSError):
        lines = []
    step = int(max((line["step"] for line in lines), default=0))
    keys = [f"measure/{name}/mean_iou" for name in job.recipe.trained()]
    ious = [line[key] for line in lines for key in keys[:1] if key in line]
    paces = [line["seconds_per_step"] for line in lines if "seconds_per_step" in line][-RECENT:]
    left = (job.recipe.steps - step) * statistics.median(paces) if paces else None
    return Progress(step, job.recipe.steps, ious[-1] if ious else None, left)


@final
class Watch:
    """A table below what is printed, while `with` lasts; nothing where standard error is no terminal.

    Args:
        console: where it is drawn; default: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        own = console or Console(stderr=True)
        # Lines that are printed meanwhile go above it; no thread: whoever waits for the runs draws it.
        shown = own.is_terminal if console else sys.stderr.isatty()
        self.live = Live(console=own, auto_refresh=False, transient=True) if shown else None
        self.seen: dict[str, tuple[int, Progress]] = {}
        """By run, how long its log was and what it said."""

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def look(self, running: Sequence[Job], finished: int, waiting: int, failed: int) -> None:
        """Draw what is so now."""
        if self.live is None:
            return
        told = [(job.name, self._progress(job)) for job in running]
        self.live.update(drawn(told, finished, waiting, failed), refresh=True)

    def _progress(self, job: Job) -> Progress:
        file = Run(job.run).log_file
        size = file.stat().st_size if file.exists() else 0
        if self.seen.get(job.name, (-1, None))[0] != size:  # a long log is read once for each of its lines
            self.seen[job.name] = size, progress(job)
        return self.seen[job.name][1]


def drawn(running: Sequence[tuple[str, Progress]], finished: int, waiting: int, failed: int) -> Group:
    """A line of counts, and a row for each run."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("run", overflow="ellipsis", no_wrap=True, max_width=40)
    grid.add_column("")
    for name in ("step", "mIoU %", "left"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name, (step, steps, mean_iou, seconds) in running:
        grid.add_row(
            Text(name),
            ProgressBar(total=steps, completed=step, width=16),
            f"{step:,}/{steps:,}",
            "–" if mean_iou is None else f"{100 * mean_iou:.1f}",
            "–" if seconds is None else f"~{clock(seconds)}",
        )
    counts = [(finished, "finished"), (len(running), "running"), (waiting, "waiting"), (failed, "failed")]
    said = ", ".join(f"{count} {what}" for count, what in counts if count or what != "failed")
    return Group(Text(said, style="bold"), grid)


def clock(seconds: float) -> str:
    """`4:05`, `2:00:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
