"""Cross entropies of the softmax over a pixel's classes: with its label, and with all classes, weighted."""

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segdistill.losses import Features, at_least_float32
from segdistill.losses._chunks import PIXELS, in_chunks
from segdistill.losses._divergences import exponentials

Shift = Float[Tensor, "k"] | None
"""What is added to the logits of each class."""


def error(logits: Features, known: Int64[Tensor, "b h w"], shift: Shift = None) -> Float[Tensor, "b h w"]:
    """−log p of one class at every pixel."""
    return in_chunks(partial(_of_known, shift), PIXELS, logits, known[:, None])[:, 0]


def weighted_error(logits: Features, weights: Float[Tensor, "k"], shift: Shift = None) -> Float[Tensor, "b h w"]:
    """−Σ w·log p over the classes at every pixel."""
    return in_chunks(partial(_of_all, weights[:, None, None], shift), PIXELS, logits)[:, 0]


def _of_known(shift: Shift, logits: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    below, powers, total = exponentials(_shifted(logits, shift), 1.0, (1,))
    gradient = powers.mul_(1 / total).scatter_add_(1, known, torch.full_like(total, -1))
    return total.log() - below.gather(1, known), gradient


def _of_all(weights: Tensor, shift: Shift, logits: Tensor) -> tuple[Tensor, Tensor]:
    below, powers, total = exponentials(_shifted(logits, shift), 1.0, (1,))
    every = weights.sum()
    return every * total.log() - below.mul_(weights).sum(1, keepdim=True), powers.mul_(every / total).sub_(weights)


def _shifted(logits: Tensor, shift: Shift) -> Tensor:
    logits = at_least_float32(logits)
    return logits if shift is None else logits + shift.to(logits.dtype)[:, None, None]
