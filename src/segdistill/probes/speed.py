"""What each model costs: parameters, MACs, and milliseconds per image on this machine."""

import statistics
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import final

import torch
from torch.utils.flop_counter import FlopCounterMode

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.probes import Probe
from segdistill.types import Findings


@final
class Speed(Probe):
    """`<model>/parameters`, `/gmac` and `/milliseconds` (median) for one image at the network's input size.

    The models take turns, so that a machine that slows down slows all of them. Threads are torch's; `threads` is told.
    """

    def __init__(self, repeats: int = 20, *, input_size: tuple[int, int] | None) -> None:
        if repeats < 1:
            raise Mistake(f"repeats: expected at least 1, got {repeats}")
        self.repeats, self.size = repeats, input_size

    @torch.no_grad()
    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings:
        height, width = self.size or dataset.labels(0).shape
        numbers: dict[str, float] = {"threads": float(torch.get_num_threads())}
        image = torch.zeros(1, 3, height, width).contiguous(memory_format=torch.channels_last)
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(self.repeats + 2):
            for name, model in models.items():
                here = image.to(next(model.parameters()).device)
                _wait(here)
                begin = time.perf_counter()
                model(here)
                _wait(here)
                if repeat >= 2:  # the first calls allocate and choose kernels
                    seconds[name].append(time.perf_counter() - begin)
        for name, model in models.items():
            numbers[f"{name}/parameters"] = float(parameters(model))
            numbers[f"{name}/gmac"] = gmac(model, (height, width))
            numbers[f"{name}/milliseconds"] = 1000 * statistics.median(seconds[name])
        return Findings(numbers)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def gmac(model: torch.nn.Module, size: tuple[int, int]) -> float:
    """10⁹ multiply-accumulates for one image, counted by torch without computing anything (meta device)."""
    shadow = deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2e9


def _wait(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
