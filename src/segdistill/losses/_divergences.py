"""Kullback-Leibler divergences that several losses use: over the classes of a pixel, and over the pixels of a map."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.losses import Features, at_least_float32
from segdistill.losses._chunks import MAPS, PIXELS, bits, in_chunks, kept

HIDDEN = -1e30
"""A logit that no softmax sees. With −inf, a distribution over nothing else would be NaN; here it is uniform."""

LEAST = -80.0
"""exp of less would be 0 beside 1 in any precision; on a CPU it takes ten times as long."""


def class_divergence(student: Features, target: Features, temperature: float) -> Float[Tensor, "b h w"]:
    """T²·KL(target ‖ student) of the class distributions at every pixel, in nats."""
    return in_chunks(partial(_of_pixels, temperature), PIXELS, student, target)[:, 0]


def map_divergence(
    student: Features, target: Features, counts: Bool[Tensor, "b h w"], temperature: float
) -> Float[Tensor, "b c"]:
    """T²·KL(target ‖ student) of every channel's distribution over the pixels that count; 0 for a map without one."""
    # The pixel is gone before the softmax: one that is only left out of the sum afterwards keeps its share of the
    # probability, and the "divergence" of what is left can be negative. A map without any is uniform, not NaN.
    hiding = torch.where(counts, 0.0, torch.where(counts.flatten(1).any(1)[:, None, None], HIDDEN, 0.0))[:, None]
    work = partial(_of_maps, temperature)
    return in_chunks(work, MAPS, student, target, bits(counts[:, None], student), hiding).flatten(1)


def divergence(student: Tensor, target: Tensor, temperature: float, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """T²·KL(target ‖ student) of the softmax along `dim`, which stays, and the gradient of the sum; no autograd."""
    ours, p, total = exponentials(student, temperature, dim)
    theirs, q, target_total = exponentials(target, temperature, dim)
    # log q − log p in two parts: no logarithm is taken but of the sums.
    values = theirs.sub_(ours).mul_(q).sum(dim, keepdim=True) / target_total + (total.log() - target_total.log())
    gradient = p.mul_(temperature / total).addcmul_(q, temperature / target_total, value=-1)
    return values * temperature**2, gradient


def exponentials(logits: Tensor, temperature: float, dim: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """x = (logits − the largest) / T, exp x and Σ exp x, all new: what a softmax is made of, to be overwritten."""
    below = torch.add(logits.amax(dim, keepdim=True) / -temperature, logits, alpha=1 / temperature)
    powers = below.clamp(min=LEAST).exp_()
    return below, powers, powers.sum(dim, keepdim=True)


def probabilities(logits: Tensor, counts: Tensor) -> Tensor:
    """Of a pixel's classes; all the same where it does not count, even of logits that are no numbers. No autograd."""
    _, powers, total = exponentials(kept(logits, counts), 1.0, (1,))
    return powers.mul_(1 / total)


def _of_pixels(temperature: float, student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return divergence(at_least_float32(student), at_least_float32(target), temperature, (1,))


def _of_maps(
    temperature: float, student: Tensor, target: Tensor, counts: Tensor, hiding: Tensor
) -> tuple[Tensor, Tensor]:
    ours, theirs = (kept(maps, counts).add_(hiding) for maps in (student, target))
    values, gradient = divergence(ours, theirs, temperature, (2, 3))
    return values, kept(gradient, counts)
