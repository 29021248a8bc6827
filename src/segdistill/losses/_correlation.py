"""Pearson's correlation from moments, which chunks of a batch add up to."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """What is known of numbers p and q."""

    number: Tensor
    p_mean: Tensor
    q_mean: Tensor
    p_square: Tensor
    """Σ (p − mean)²."""
    q_square: Tensor
    product: Tensor
    """Σ (p − mean)·(q − mean)."""


def moments(p: Tensor, q: Tensor, over: list[int], weights: Tensor | None = None) -> Moments:
    """Along some axes; weighted by 0 or 1, the same along all other axes."""
    number = p.new_tensor(prod(p.shape[axis] for axis in over)) if weights is None else weights.sum()
    means, offsets = list[Tensor](), list[Tensor]()
    for x in (p, q):
        counted = x if weights is None else x * weights
        means.append(counted.sum(over, keepdim=True) / number.clamp(min=1))
        offsets.append(x - means[-1] if weights is None else (x - means[-1]) * weights)
    p, q = offsets
    sums = ((x * y).sum(over, keepdim=True) for x, y in ((p, p), (q, q), (p, q)))
    return Moments(number.expand_as(means[0]), *means, *sums)


def joined(parts: Moments) -> Moments:
    """The moments of all chunks together, without a difference of large numbers (Chan, Golub and LeVeque 1983)."""
    number = parts.number.sum((0, 2, 3), keepdim=True)
    p_mean, q_mean = (
        (parts.number * mean).sum((0, 2, 3), keepdim=True) / number.clamp(min=1)
        for mean in (parts.p_mean, parts.q_mean)
    )
    p_off, q_off = parts.p_mean - p_mean, parts.q_mean - q_mean
    return Moments(
        number,
        p_mean,
        q_mean,
        *(
            (within + parts.number * between).sum((0, 2, 3), keepdim=True)
            for within, between in (
                (parts.p_square, p_off.square()),
                (parts.q_square, q_off.square()),
                (parts.product, p_off * q_off),
            )
        ),
    )


def distance(of: Moments) -> tuple[Tensor, Tensor]:
    """1 − the correlation of p and q, and 1 where there is one: where both vary."""
    squared_norms = of.p_square * of.q_square
    varies = squared_norms > 1e-16
    for square, mean in ((of.p_square, of.p_mean), (of.q_square, of.q_mean)):
        # Equal numbers differ from their rounded mean; that is no relation, though one with an enormous slope.
        varies = varies & (square > of.number.clamp(min=1) * (64 * torch.finfo(mean.dtype).eps * mean) ** 2)
    correlation = of.product / torch.where(varies, squared_norms, 1).sqrt()  # the root's slope is infinite at 0
    return 1 - correlation, varies.to(correlation.dtype)
