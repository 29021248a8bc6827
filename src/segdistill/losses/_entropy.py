"""The entropy of a pixel's class distribution, as a loss sees it."""

import torch
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, at_least_float32
from segdistill.losses._chunks import PIXELS, in_chunks
from segdistill.losses._divergences import exponentials


def entropy(logits: Features) -> Float[Tensor, "b h w"]:
    """H(softmax) at every pixel, in nats."""
    return in_chunks(_of_pixels, PIXELS, logits)[:, 0]


def _of_pixels(logits: Tensor) -> tuple[Tensor, Tensor]:
    below, powers, total = exponentials(at_least_float32(logits), 1.0, (1,))
    p, mean = powers.mul_(1 / total), torch.empty_like(total)
    torch.sum(p * below, 1, keepdim=True, out=mean)
    return total.log() - mean, p.mul_(mean - below)  # dH/dz = −p·(log p + H), and log p + H = below − mean
