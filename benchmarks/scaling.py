"""Several processes: images a second of one and of two, what their messages take, and the arithmetic to 8 and 64 GPUs.

python benchmarks/scaling.py                  --steps, --rounds; minutes on two cores

Measured: `segdistill train` under torchrun (gloo, one thread each), four images a process; runs of one and of two
processes take turns. Computed: a step's operations over a rate and its gradient's bytes over a bandwidth, both given.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as spawning
from torch import Tensor

from segdistill.models.unet import UNet
from segdistill.probes.speed import gmac, parameters
from segdistill.recipe import dump, parse
from segdistill.run import processor

IMAGES, CROP = 4, (96, 192)
WIDTHS = (8, 16, 32, 64)
RATE = 50e12
"""Operations a second that convolutions reach on one GPU: a sixth of what an A100 promises in bf16."""
BANDWIDTHS = {
    "8 GPUs, NVLink 200 GB/s": (8, 200e9),
    "64 GPUs, 100 Gbit/s": (64, 12.5e9),
    "64 GPUs, 25 Gbit/s": (64, 3.1e9),
}
"""Of one process, in both directions at once; 64 GPUs are 8 machines of 8 whose slowest link is the network."""
LATENCY = 20e-6
"""Seconds of a message that holds nothing; a ring passes 2 (n - 1) of them."""
SIZE = (512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    said = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{processor()}, {os.cpu_count()} cores, load {load:.1f} before, torch {torch.__version__}, gloo\n")
    runs(said.steps, said.rounds)
    spawning.spawn(messages, (2, tempfile.mkdtemp()), 2)  # pyright: ignore[reportPrivateImportUsage]
    computed()


def runs(steps: int, rounds: int) -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for processes, taken in seconds.items():
                taken.append(run(Path(folder) / f"{processes}-{turn}", processes, steps))
    print("| processes | images a step | s a step | images/s | of linear |\n|---|---|---|---|---|")
    alone = IMAGES / statistics.median(seconds[1])
    for processes, taken in seconds.items():
        value = statistics.median(taken)
        speed = IMAGES * processes / value
        share = speed / alone / processes
        print(f"| {processes} | {IMAGES * processes} | {value:.2f} | {speed:.2f} | {share:.0%} |")


def run(folder: Path, processes: int, steps: int) -> float:
    """Median seconds of a step, without the first three."""
    content = {
        "data": {
            "kind": "streets",
            "count": 16,
            "val_count": 2,
            "crop": CROP,
            "batch": IMAGES * processes,
            "cache": True,
        },
        "models": {"student": {"kind": "unet", "width": 16}},
        "losses": {"cross_entropy": {"student": "student"}},
        "steps": steps,
        "log": {"every": 1, "wandb": "off"},
    }
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(dump(parse(content)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, "-m", "segdistill", "--", "train", str(recipe), "--run", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return statistics.median([row["seconds_per_step"] for row in rows if "seconds_per_step" in row][3:])


def messages(rank: int, processes: int, folder: str) -> None:
    """What two processes take for the sum of a gradient, and for the statistics of normalisation, on this machine."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=processes)
    if rank == 0:
        print("\n| | MB of gradient | its sum, ms | buffers | one message each, ms | in one message, ms |")
        print("|---|---|---|---|---|---|")
    for width in WIDTHS:
        network = UNet(width, num_classes=19)
        gradient = torch.zeros(parameters(network))
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        summed = _milliseconds(_sum, [gradient])
        apart, together = _milliseconds(_spread, buffers), _milliseconds(_spread, [flat])
        if rank == 0:
            size = 4 * parameters(network) / 1e6
            print(f"| UNet {width} | {size:.1f} | {summed:.1f} | {len(buffers)} | {apart:.1f} | {together:.2f} |")
    dist.destroy_process_group()


def _sum(tensor: Tensor) -> None:
    dist.all_reduce(tensor)


def _spread(tensor: Tensor) -> None:
    dist.broadcast(tensor, 0)


def _milliseconds(message: Callable[[Tensor], None], tensors: Sequence[Tensor]) -> float:
    taken: list[float] = []
    for _ in range(6):
        dist.barrier()
        begin = time.perf_counter()
        for tensor in tensors:
            message(tensor)
        taken.append(1000 * (time.perf_counter() - begin))
    return statistics.median(taken[1:])


def computed() -> None:
    """Nothing is hidden behind the backward pass here, though DDP does that: a lower bound."""
    print(f"\nUNet student <- UNet 64, {IMAGES} images of {SIZE[0]}×{SIZE[1]} a GPU, {RATE / 1e12:.0f} TFLOP/s\n")
    titles = [f"{name}: ms, of linear" for name in BANDWIDTHS]
    print(f"| student | TFLOP a step | with a cache | ms | cached | {' | '.join(titles)} |")
    print(f"|{'---|' * (5 + len(titles))}")
    teacher = gmac(UNet(64, num_classes=19), SIZE)
    for width in WIDTHS:
        network = UNet(width, num_classes=19)
        own = 3 * gmac(network, SIZE)  # a backward pass is two forward passes
        live, cached = (2e9 * IMAGES * cost for cost in (own + teacher, own))
        cells = [f"UNet {width}", f"{live / 1e12:.2f}", f"{cached / 1e12:.2f}"]
        cells += [f"{1000 * live / RATE:.1f}", f"{1000 * cached / RATE:.1f}"]
        for processes, bandwidth in BANDWIDTHS.values():
            seconds = all_reduce(4 * parameters(network), processes, bandwidth)
            shares = " / ".join(f"{cost / RATE / (cost / RATE + seconds):.0%}" for cost in (live, cached))
            cells.append(f"{1000 * seconds:.1f}, {shares}")
        print(f"| {' | '.join(cells)} |")


def all_reduce(size: int, processes: int, bandwidth: float) -> float:
    """Seconds of a ring: every process sends and receives 2 (n - 1) / n of the bytes."""
    return 2 * (processes - 1) / processes * size / bandwidth + 2 * (processes - 1) * LATENCY


if __name__ == "__main__":
    main()
