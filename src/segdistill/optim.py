"""The optimiser and its learning rate: torch's own, with no weight decay on biases and normalisation."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, final

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from segdistill.recipe import OptimSpec


def optimiser(module: nn.Module, spec: OptimSpec) -> Optimizer:
    """AdamW or SGD over the module's parameters; vectors (biases, normalisation) do not decay."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if spec.kind == "adamw":
        return AdamW(groups, lr=spec.lr, betas=(spec.momentum, 0.999), fused=fused)
    return SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=fused)


def rate(spec: OptimSpec, step: int, steps: int) -> float:
    """The learning rate of a step: linear warm-up, then poly (1 − progress)^power, cosine, or constant."""
    if step < spec.warmup:
        return spec.lr * (step + 1) / spec.warmup
    progress = step / steps
    factor = {
        "poly": (1 - progress) ** spec.power,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }[spec.schedule]
    return spec.lr * factor


def set_rate(optimizer: Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


@final
class Moments:
    """What an optimiser remembers of the gradients, in each phase: one and the same, or as many as there are phases.

    Moments that losses of alternating phases share scale and mix their gradients; relatives of keeping them apart are
    DOT, https://arxiv.org/abs/2307.08436, and DeepKD, https://arxiv.org/abs/2505.15133.
    """

    def __init__(self, count: int) -> None:
        self.others: list[Any] = [defaultdict(dict) for _ in range(count)]
        """By phase; of the phase whose turn it is, the optimiser itself has them."""
        self.place = 0

    def turn(self, optimizer: Optimizer, phase: int) -> None:
        """Let the optimiser go on with the moments of a phase."""
        place = phase if len(self.others) > 1 else 0
        if place != self.place:
            self.others[self.place], optimizer.state = optimizer.state, self.others[place]
            self.place = place

    def each(self, optimizer: Optimizer) -> Iterator[str]:
        """Names of the phases' moments, while the optimiser has them; those that it had come back afterwards."""
        before = self.place
        for place in range(len(self.others)):
            self.turn(optimizer, place)
            yield f"optimizer-{place}" if place else "optimizer"
        self.turn(optimizer, before)
