"""A throw-away environment for what benchmarks compare with: the packages of this one, and the peers' beside them."""

import os
import site
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

SOURCE = Path(__file__).parents[1] / "src"


def run_with(*packages: str) -> None:
    """Run this program again where `packages` can be imported, in place of this process; once there, do nothing.

    pip installs them by name, the first time, into an environment below the folder for temporary files. Where it
    cannot, that is said, and the program goes on with what there is.
    """
    if os.environ.get("SEGDISTILL_PEERS"):
        return
    name = f"segdistill-peers-{sys.version_info.major}.{sys.version_info.minor}-torch-{torch.__version__}"
    folder = Path(tempfile.gettempdir()) / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / version / "site-packages" / "parent.pth").write_text("\n".join(site.getsitepackages()))
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    if subprocess.run(pip).returncode:
        print(f"pip could not install {', '.join(packages)} (it says why above): what is missing is left out\n")
    environment = {**os.environ, "SEGDISTILL_PEERS": "1", "PYTHONPATH": str(SOURCE), "NO_ALBUMENTATIONS_UPDATE": "1"}
    os.execve(python, [str(python), *sys.argv], environment)


Seconds = tuple[list[float], list[float]]
"""On the clock, and of the processor in all threads: the one that others on the machine do not lengthen much."""


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Seconds of each work, after one warm-up, taking turns."""
    seconds: dict[str, Seconds] = {name: ([], []) for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            begin, spent = time.perf_counter(), time.process_time()
            work()
            if turn:
                seconds[name][0].append(time.perf_counter() - begin)
                seconds[name][1].append(time.process_time() - spent)
    return seconds


def table(seconds: Mapping[str, Seconds], images: int, what: str = "") -> None:
    """Medians in milliseconds per image, and over the first row's: medians of each round's ratio."""
    print(f"| {what} | ms an image | × the first | CPU ms an image | × the first |\n|---|---|---|---|---|")
    first = next(iter(seconds.values()))
    for name, kinds in seconds.items():
        cells = [name]
        for values, ours in zip(kinds, first, strict=True):
            ratio = statistics.median(a / b for a, b in zip(values, ours, strict=True))
            cells += [f"{1000 * statistics.median(values) / images:.1f}", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
