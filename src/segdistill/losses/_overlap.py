"""How far predicted and labelled areas overlap, class by class over a batch: what dice and tversky share."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, Labels, Mask, at_least_float32
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
    """Keeps 1¼ logit-sized tensors for backward."""
    counts = (mask & (labels != IGNORE))[:, None]
    members = counts & (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None])
    # `where` remembers the one-hot labels in one byte each; a product would keep them, and p, as floats.
    p = torch.where(counts, at_least_float32(logits).softmax(1), 0.0)  # [b, k, H, W]
    both = torch.where(members, p, 0.0)
    return Overlap(both.sum((0, 2, 3)), p.sum((0, 2, 3)), members.sum((0, 2, 3)).to(p.dtype))
