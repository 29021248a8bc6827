"""How far predicted and labelled areas overlap, class by class over a batch: what dice and tversky share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, Labels, Mask
from segdistill.losses._chunks import PIXELS, kept, sums_in_chunks
from segdistill.losses._divergences import probabilities
from segdistill.types import IGNORE


class Overlap(NamedTuple):
    """Sums over the labelled pixels of a batch, in pixels, with p the probability and g the label of a class."""

    both: Float[Tensor, "k"]
    """Σ p·g."""
    predicted: Float[Tensor, "k"]
    """Σ p."""
    labelled: Float[Tensor, "k"]
    """Σ g; no gradient."""


def overlap(logits: Features, labels: Labels, mask: Mask) -> Overlap:
    """Keeps nothing of the logits' size for backward."""
    known = torch.where(mask, labels, IGNORE)[:, None]
    return Overlap(*(each.sum((0, 2, 3)) for each in sums_in_chunks(_sums, PIXELS, logits, known, gradient=_gradient)))


def _sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    counts = labels != IGNORE
    p, known = probabilities(logits, counts), torch.where(counts, labels, 0)
    weights = counts.to(p.dtype)
    nothing = p.new_zeros(p.shape[1])
    both, labelled = (
        nothing.scatter_add(0, known.flatten(), (each * weights).flatten()) for each in (p.gather(1, known), weights)
    )
    return both.view(1, -1, 1, 1), p.mul_(weights).sum((0, 2, 3), keepdim=True), labelled.view(1, -1, 1, 1)


def _gradient(slopes: Sequence[Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    of_both, of_predicted, _ = slopes
    counts = labels != IGNORE
    p, known = probabilities(logits, counts), torch.where(counts, labels, 0)
    of_label = p.gather(1, known) * of_both.flatten()[known]
    mean = (p * of_predicted).sum(1, keepdim=True) + of_label
    return kept((of_predicted - mean).mul_(p).scatter_add_(1, known, of_label), counts)
