"""How long one waits: for help, the list of parts, a plan, and the first training step; each in fresh processes.

python benchmarks/startup.py          about two minutes on two cores
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from segdistill.run import processor

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "streets" / "teacher.yaml"
PROGRAM = [sys.executable, "-m", "segdistill"]


def main() -> None:
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, {RECIPE.relative_to(ROOT)}\n")
    print("| | seconds | CPU seconds | target | rounds |\n|---|---|---|---|---|")
    report("python -c pass", 5, "", [sys.executable, "-c", "pass"])
    report("segdistill --help", 5, "0.3", [*PROGRAM, "--help"])
    report("import torch", 2, "", [sys.executable, "-c", "import torch"])
    report("segdistill list", 2, "", [*PROGRAM, "list"])
    report("segdistill plan", 2, "20", [*PROGRAM, "plan", str(RECIPE)])
    with tempfile.TemporaryDirectory() as folder:
        taken = [first_step(Path(folder) / str(turn)) for turn in range(2)]
    row("segdistill train, first step logged", taken, "30")


def report(what: str, rounds: int, target: str, command: list[str]) -> None:
    row(what, [run(command) for _ in range(rounds)], target)


def row(what: str, taken: list[tuple[float, float]], target: str) -> None:
    clock, processor_time = (statistics.median(values) for values in zip(*taken, strict=True))
    print(f"| {what} | {clock:.2f} | {processor_time:.2f} | {target} | {len(taken)} |", flush=True)


def run(command: list[str]) -> tuple[float, float]:
    before, begin = _spent(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin, _spent() - before


def first_step(folder: Path) -> tuple[float, float]:
    """Until the line of the first update is in the log; then the run is interrupted."""
    before, begin = _spent(), time.perf_counter()
    settings = [f"--set={setting}" for setting in ("log.every=1", "log.wandb=off")]
    command = [*PROGRAM, "train", str(RECIPE), "--run", str(folder), *settings]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        log = folder / "log.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert training.poll() is None, "the run ended before its first step"
            time.sleep(0.02)
        clock = time.perf_counter() - begin
        training.send_signal(signal.SIGINT)
    return clock, _spent() - before


def _spent() -> float:
    """Of the processor, by all processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
