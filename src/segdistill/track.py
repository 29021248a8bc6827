"""Where a run's numbers go while it trains: the run directory, the terminal, and Weights & Biases when it is wanted.

Names of numbers: `loss` (the total), `loss/<edge>`, `learning_rate`, `gradient_norm`, `seconds_per_step` and of it
`seconds/<data, teacher, student, backward, optimiser, other>`, and from probes `<probe>/<name>`, as in
`measure/student/mean_iou`.
"""

import importlib.util
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from segdistill.mistakes import Mistake
from segdistill.run import Run, append_json, read_json, write_json
from segdistill.types import IGNORE, ClassTable, Findings, Picture

if TYPE_CHECKING:
    import wandb as weights_and_biases

Wandb = Literal["auto", "offline", "online", "off"]

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal to redraw, a line is printed this often, and at every tenth of the way."""
SECONDS_OF_RATE = 60.0
"""The steps per second shown are those of the last minute."""
SECONDS_FOR_NETWORK = 30.0


@final
class Tracker:
    """Keeps what is logged; use it as a context manager, so that an exception leaves the terminal as it was.

        with Tracker(run, recipe, classes, wandb="auto", steps=40000, start=0, resumed=False) as tracker:
            tracker.log(20, {"loss": 1.3, "loss/soft_targets": 0.4})

    One process constructs it; the others track nothing.
    """

    def __init__(
        self,
        run: Run,
        recipe: Mapping[str, object],
        classes: ClassTable,
        *,
        wandb: Wandb,
        steps: int,
        start: int,
        resumed: bool,
    ) -> None:
        mode = _resolve(wandb)
        self._run = run
        self._mirror = None if mode == "off" else _Mirror(run, recipe, classes, mode, resumed)
        self._view = _View(run.name, steps, start)

    def __enter__(self) -> Self:
        self._view.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(failed=kind is not None)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the numbers of a step."""
        self._keep(step, numbers)
        self._view.show(step, numbers)

    def findings(self, probe: str, step: int, findings: Findings) -> None:
        """Keep what a probe found; its numbers join the log as `<probe>/<name>`."""
        self._run.write_findings(probe, step, findings)
        numbers = {f"{probe}/{name}": value for name, value in findings.numbers.items()}
        if numbers:
            self._keep(step, numbers)
        self._view.remember(step, numbers)
        if self._mirror:
            self._mirror.findings(probe, step, findings)

    def finish(self) -> None:
        """Give the terminal back and close the W&B run; a second call does nothing."""
        self._close(failed=False)

    def _keep(self, step: int, numbers: Mapping[str, float]) -> None:
        append_json(self._run.log_file, {"step": step, **numbers})
        if self._mirror:
            self._mirror.log(step, numbers)

    def _close(self, failed: bool) -> None:
        self._view.close()
        if self._mirror:
            self._mirror.finish(failed)
            self._mirror = None


def _resolve(asked: Wandb) -> Literal["offline", "online", "off"]:
    if asked == "off":
        return "off"
    # A folder called wandb in the working directory, where W&B writes by default, passes for a package without origin.
    specification = importlib.util.find_spec("wandb")
    installed = specification is not None and specification.origin is not None
    if asked == "auto":
        return "offline" if installed else "off"
    if not installed:
        raise Mistake(f"log.wandb: '{asked}' needs a package that is not installed: pip install segdistill[wandb]")
    return asked


@final
class _Mirror:
    """A W&B run beside the run directory; offline it needs neither account nor network."""

    def __init__(
        self,
        run: Run,
        recipe: Mapping[str, object],
        classes: ClassTable,
        mode: Literal["offline", "online"],
        resumed: bool,
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # otherwise even offline looks a host up
        import wandb
        from wandb.errors import Error

        self._wandb = wandb
        self._labels = dict(enumerate(classes.names)) | {IGNORE: "void"}
        settings = wandb.Settings(
            mode=mode,
            silent=True,
            console="off",  # the live view must not be captured
            x_stats_sampling_interval=15,
            init_timeout=SECONDS_FOR_NETWORK,
            finish_timeout=SECONDS_FOR_NETWORK,
        )
        file = run.path / "wandb.json"
        # Offline data cannot be resumed, but parts with one id become one run when they are synced.
        known: object = read_json(file).get("id") if resumed and file.exists() else None
        identity = known if isinstance(known, str) else secrets.token_hex(4)
        try:
            wandb.setup(settings)
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                raise Mistake(
                    "log.wandb: 'online' needs a Weights & Biases key and found none; "
                    "run `wandb login`, or say 'offline' and sync later"
                )
            self._session = wandb.init(
                project="segdistill",
                name=run.name,
                id=identity,
                dir=run.path,
                resume="allow" if mode == "online" else None,
                config=dict(recipe),
                allow_val_change=True,  # a resumed run may have been allowed a change
                settings=settings,
            )
        except (Error, TimeoutError) as error:
            reason = str(error).strip().splitlines()[0]
            raise Mistake(
                f"log.wandb: '{mode}' could not start Weights & Biases ({reason}); 'offline' needs no network, "
                "'off' leaves it out"
            ) from error
        write_json(file, {"id": identity, "mode": mode, "url": self._session.url})
        if self._session.url:
            Console(stderr=True).print(f"Weights & Biases: {self._session.url}", markup=False, soft_wrap=True)

    def log(self, step: int, content: Mapping[str, object]) -> None:
        self._session.log(dict(content), step=step)

    def findings(self, probe: str, step: int, findings: Findings) -> None:
        """Tables and pictures; a picture `a/b` is a part of the picture `a` and is left out where `a` is there."""
        content: dict[str, object] = {
            f"{probe}/{name}": self._wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in findings.tables.items()
        }
        for name, picture in findings.images.items():
            if name.rpartition("/")[0] not in findings.images:
                content[f"{probe}/{name}"] = self._image(picture, name)
        if content:
            self.log(step, content)

    def finish(self, failed: bool) -> None:
        self._session.finish(exit_code=1 if failed else 0)

    def _image(self, picture: Picture, caption: str) -> "weights_and_biases.Image":
        if picture.photograph is None:
            return self._wandb.Image(picture.pixels, caption=caption)
        masks: dict[str, Any] = {
            name: {"mask_data": mask, "class_labels": self._labels} for name, mask in picture.masks.items()
        }
        return self._wandb.Image(picture.photograph, caption=caption, masks=masks)


@final
class _View:
    """What a person sees: two lines that redraw in a terminal, and now and then a plain line anywhere else."""

    def __init__(self, title: str, steps: int, start: int) -> None:
        self._title, self._steps, self._step = title, steps, start
        self._losses: dict[str, float] = {}
        self._mean_ious: dict[str, float] = {}
        self._measured_at = 0
        self._marks = deque([(time.monotonic(), start)])
        self._first = self._marks[0]
        self._printed: tuple[float, int] | None = None
        self._console = Console(stderr=True)
        redraws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(self, console=self._console, refresh_per_second=4) if redraws else None

    def open(self) -> None:
        self._first = time.monotonic(), self._step
        self._marks = deque([self._first])
        if self._live:
            self._live.start()

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        now = time.monotonic()
        self._step = step
        losses = {name: value for name, value in numbers.items() if name == "loss" or name.startswith("loss/")}
        self._losses = self._losses | losses  # a new one: the thread that redraws may be reading the old one
        self.remember(step, numbers)
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > SECONDS_OF_RATE:
            self._marks.popleft()
        if self._live is None and self._is_due(now):
            self._printed = now, step
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def remember(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the newest mIoU of every model."""
        found = {
            name.removeprefix("measure/").removesuffix("/mean_iou"): value
            for name, value in numbers.items()
            if name.startswith("measure/") and name.endswith("/mean_iou")
        }
        if found:
            self._mean_ious = self._mean_ious | found
            self._measured_at = step

    def __rich__(self) -> Group:
        bar = Grid.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None, None, None):
            bar.add_column(ratio=ratio, no_wrap=True)
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._steps, completed=self._step),
            self._position(),
            Text(self._rate(), style="cyan"),
            Text(self._remaining()),
        )
        return Group(bar, Text(self._values(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _is_due(self, now: float) -> bool:
        if self._printed is None:
            return True
        then, step = self._printed
        return now - then >= SECONDS_BETWEEN_LINES or self._step * 10 // self._steps > step * 10 // self._steps

    def _line(self) -> str:
        pieces = (self._title, self._position(), self._rate(), self._remaining(), self._values())
        return "  ".join(piece for piece in pieces if piece)

    def _position(self) -> str:
        return f"{self._step:,}/{self._steps:,} ({self._step / self._steps:.0%})"

    def _rate(self) -> str:
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return f"{(after - before) / (now - then):.3g} steps/s" if after > before and now > then else ""

    def _remaining(self) -> str:
        """At the mean rate so far, which counts the time that probes take."""
        seconds = self._marks[-1][0] - self._first[0]
        done = self._step - self._first[1]
        if done <= 0:
            return ""
        return f"{timedelta(seconds=round(seconds / done * (self._steps - self._step)))} left"

    def _values(self) -> str:
        pieces = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in self._losses.items()]
        if self._mean_ious:
            shares = ", ".join(f"{model} {value:.1%}" for model, value in self._mean_ious.items())
            pieces.append(f"mIoU {shares} at step {self._measured_at:,}")
        return "  ".join(pieces)
