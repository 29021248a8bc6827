"""Promise 1 over time: memory, file handles and processes stay flat; Ctrl-C and SIGTERM end with a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from segdistill.checkpoint import load_state
from segdistill.recipe import dump
from segdistill.run import Run
from small import online, small


class Look(NamedTuple):
    step: int
    megabytes: float
    """Resident, of the process and its workers."""
    files: int
    processes: int


def start(recipe: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segdistill", "train", str(recipe), "--run", str(run), *more]
    trim = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env={**os.environ, **trim}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def steps_done(run: Run) -> int:
    text = run.log_file.read_text() if run.log_file.exists() else ""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return max((int(line["step"]) for line in lines), default=0)


def look(process: psutil.Process, run: Run) -> Look:
    family = [process, *process.children(recursive=True)]
    memory = sum(each.memory_info().rss for each in family) / 1e6
    return Look(steps_done(run), memory, process.num_fds(), len(family))


@pytest.mark.slow
def test_five_thousand_steps_leak_nothing(tmp_path: Path) -> None:
    """With workers, probes and checkpoints; the first fifth, in which memory fills, is left out of the slope."""
    unet = {"kind": "unet", "width": 2, "depth": 1}
    settings = ("steps=5000", "checkpoint.every=100", "log.every=10", "data.workers=1", "data.batch=2")
    probes = {"measure": {"every": 100}, "predictions": {"every": 500, "count": 1}}
    recipe = tmp_path / "recipe.yaml"
    graph = {"models": {"student": unet, "average": {"follows": "student"}}, "probes": probes}
    recipe.write_text(dump(small(*settings, "data.crop=[16,16]", "data.count=6", "data.val_count=1", **graph)))
    run = Run(tmp_path / "run")
    looks: list[Look] = []
    with start(recipe, run.path) as process:
        family = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                looks.append(look(family, run))
            except psutil.NoSuchProcess:  # a worker, or the run, just ended
                continue
            time.sleep(0.25)
        assert process.returncode == 0, process.stderr and process.stderr.read()
    late = [each for each in looks if 1000 <= each.step < 5000]
    steps, megabytes = np.array([each.step for each in late]), np.array([each.megabytes for each in late])
    slope = float(np.polyfit(steps, megabytes, 1)[0]) * 1000
    files = [each.files for each in late]
    print(f"{len(late)} looks, {megabytes[0]:.0f} to {megabytes[-1]:.0f} MB, {slope:+.2f} MB in 1000 steps,")
    print(f"{min(files)} to {max(files)} open files, {max(each.processes for each in late)} processes")
    assert len(late) >= 8
    assert abs(slope) < 2.0
    quarter = len(files) // 4
    assert min(files[-quarter:]) <= min(files[:quarter])  # while it decodes or saves, some more are open
    assert {each.processes for each in late} == {2}
    assert no_process_is_left(run)
    assert len(list(run.checkpoints.iterdir())) == 2


def no_process_is_left(run: Run, seconds: float = 40.0) -> bool:
    """Nobody has the run's name on its command line: workers are forks and have it too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        mine = [each for each in psutil.process_iter(["cmdline"]) if str(run.path) in (each.info["cmdline"] or [])]
        if not mine:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGTERM to all", "killed"])
def test_a_signal_ends_it_with_a_checkpoint_and_nothing_left(tmp_path: Path, how: str) -> None:
    settings = ("steps=400", "checkpoint.every=1000", "data.workers=2", "probes={}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(small(*settings, **online())))
    run = Run(tmp_path / "run")
    with start(recipe, run.path) as process:
        while steps_done(run) < 5:
            assert process.poll() is None
            time.sleep(0.02)
        if how in ("Ctrl-C", "SIGTERM to all"):  # as a terminal and a launcher do: to the workers too
            os.killpg(process.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
        else:
            process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        said = process.communicate()[1]
    assert no_process_is_left(run)
    if how == "killed":
        assert process.returncode == -signal.SIGKILL
        return
    assert process.returncode == 130, said
    assert "Traceback" not in said
    found = load_state(run.checkpoints)
    assert found is not None
    assert found[0].step == steps_done(run) >= 5
    assert f"segdistill: stopped after step {found[0].step}; --resume goes on from there" in said


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_with_a_checkpoint(tmp_path: Path) -> None:
    """As a scheduler does, which warns every process, or the launcher, which passes it on."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(small("steps=4000", "checkpoint.every=9999", "probes={}", "data.workers=1")))
    run = Run(tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "segdistill"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [*launcher, "--", "train", str(recipe), "--run", str(run.path)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while steps_done(run) < 5:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    assert no_process_is_left(run)
    found = load_state(run.checkpoints)
    assert found is not None and found[0].step == steps_done(run)
