"""The table at the terminal: what it says of runs under way, and that there is none where there is no terminal."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from segdistill.run import Run, append_json
from segdistill.study import Job, jobs, read_study
from segdistill.watching import Progress, Watch, clock, drawn, progress
from test_study import written


@pytest.fixture
def job(tmp_path: Path) -> Job:
    found = jobs(read_study(written(tmp_path), ["set.steps=1000"]), tmp_path, tmp_path / "out")[2]
    found.run.mkdir(parents=True)
    return found


def text(*running: tuple[str, Progress], failed: int = 0) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, no_color=True)
    with console.capture() as captured:
        console.print(drawn(running, 3, 39, failed))
    plain = "".join(
        part.partition("m")[2] if place else part for place, part in enumerate(captured.get().split("\x1b["))
    )
    return plain.splitlines()


def test_progress_is_what_the_log_says(job: Job) -> None:
    assert progress(job) == Progress(0, 1000, None, None)
    log = Run(job.run).log_file
    append_json(log, {"step": 100, "seconds_per_step": 0.5})
    append_json(log, {"step": 100, "measure/student/mean_iou": 0.25})
    append_json(log, {"step": 200, "seconds_per_step": 0.25})
    append_json(log, {"step": 200, "measure/student/mean_iou": 0.3125})
    append_json(log, {"step": 300, "seconds_per_step": 0.25})
    assert progress(job) == Progress(300, 1000, 0.3125, 700 * 0.25)
    with log.open("a") as file:
        file.write('{"step": 4')  # it is being written
    assert progress(job).step == 300
    with log.open("a") as file:
        file.write("\n")
    assert progress(job) == Progress(0, 1000, None, None)


def test_the_table() -> None:
    lines = text(("ce-T1-0", Progress(300, 1000, 0.3125, 175.0)), ("[bold]x", Progress(0, 20000, None, None)), failed=1)
    assert lines[0] == "3 finished, 2 running, 39 waiting, 1 failed"
    assert lines[1].split() == ["run", "step", "mIoU", "%", "left"]
    first, second = (line.split() for line in lines[2:])
    assert [first[0], *first[-3:]] == ["ce-T1-0", "300/1,000", "31.2", "~2:55"]
    assert [second[0], *second[-3:]] == ["[bold]x", "0/20,000", "–", "–"]
    assert text()[0] == "3 finished, 0 running, 39 waiting"


def test_it_is_drawn_at_a_terminal_and_lines_go_above_it(job: Job) -> None:
    file = io.StringIO()
    append_json(Run(job.run).log_file, {"step": 400, "seconds_per_step": 1.0})
    with Watch(Console(file=file, force_terminal=True, width=100)) as watch:
        watch.look([job], 1, 2, 0)
        print("labels-3: begins", file=sys.stderr)
        append_json(Run(job.run).log_file, {"step": 500, "seconds_per_step": 1.0})
        watch.look([job], 1, 2, 0)
    shown = file.getvalue()
    assert shown.index("400/1,000") < shown.index("labels-3: begins") < shown.index("500/1,000")


def test_there_is_none_without_a_terminal(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    with Watch() as watch:
        watch.look([job], 1, 2, 0)
        print("as ever", file=sys.stderr)
    assert capsys.readouterr() == ("", "as ever\n")


def test_a_clock() -> None:
    assert [clock(seconds) for seconds in (5, 245.4, 7210)] == ["0:05", "4:05", "2:00:10"]
