"""Kullback-Leibler divergences that several losses use: over the classes of a pixel, and over the pixels of a map."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.losses import Features, at_least_float32


def class_divergence(student: Features, target: Features, temperature: float) -> Float[Tensor, "b h w"]:
    """T²·KL(target ‖ student) of the class distributions at every pixel, in nats."""
    log_p = (at_least_float32(student) / temperature).log_softmax(1)
    log_q = (at_least_float32(target) / temperature).log_softmax(1)
    return (log_q.exp() * (log_q - log_p)).sum(1) * temperature**2


def map_divergence(
    student: Features, target: Features, counts: Bool[Tensor, "b h w"], temperature: float
) -> Float[Tensor, "b c"]:
    """T²·KL(target ‖ student) of every channel's distribution over the pixels that count; 0 for a map without one."""
    visible = counts.flatten(1)[:, None]  # [b, 1, hw]
    # The pixel is gone before the softmax: one that is only left out of the sum afterwards keeps its share of the
    # probability, and the "divergence" of what is left can be negative. A map of nothing but −inf would be NaN.
    absent = torch.where(visible.any(2, keepdim=True), -torch.inf, 0.0)
    log_p, log_q = (
        torch.where(visible, at_least_float32(maps).flatten(2) / temperature, absent).log_softmax(2)
        for maps in (student, target)
    )
    difference = torch.where(visible, log_q - log_p, 0.0)  # −inf − −inf elsewhere
    return (log_q.exp() * difference).sum(2) * temperature**2
