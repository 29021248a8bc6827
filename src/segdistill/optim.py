"""The optimiser and its learning rate: torch's own, with no weight decay on biases and normalisation."""

import math

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
