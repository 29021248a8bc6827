"""DIST: inter- and intra-relations, Huang, You, Wang, Qian and Xu 2022, https://arxiv.org/abs/2205.10536.

Differs from the published code in that pixels and classes without variance leave their mean (there each adds a constant
1), and in having no temperature. Its factor T², found in other codes, has no place here: a correlation has no scale.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid
from segdistill.mistakes import Mistake


@final
class Dist(Loss):
    """1 − Pearson's correlation of the two probabilities: of a pixel over classes, and of a class over pixels.

    The second is over the counting pixels of one process's batch, so the value depends on what is in a batch together.
    Keeps 4 logit-sized tensors for backward.

    Args:
        inter: weight of the mean over pixels (the relation between classes).
        intra: weight of the mean over classes (the relation between the pixels of one class).
    """

    per_batch = True

    def __init__(self, inter: float = 1.0, intra: float = 1.0) -> None:
        super().__init__()
        for name, weight in (("inter", inter), ("intra", intra)):
            if weight < 0:
                raise Mistake(f"{name}: expected 0 or more, got {weight}")
        self.inter = inter
        self.intra = intra

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])[:, None]  # [b, 1, h, w]
        # Infinite logits where nothing counts would leave NaN in the softmax's gradient.
        p, q = (torch.where(counts, at_least_float32(x), 0).softmax(1) for x in (student, target))
        inter = global_mean(*distance(p, q, counts, [1]))
        intra = global_mean(*distance(p, q, counts, [0, 2, 3]))
        return self.inter * inter + self.intra * intra


def distance(p: Tensor, q: Tensor, counts: Tensor, over: list[int]) -> tuple[Tensor, Tensor]:
    """1 − the correlation of p and q along some axes, and 1 where there is one: where both vary at what counts."""
    counts = counts.expand_as(p)
    number = counts.sum(over, keepdim=True).clamp(min=1)
    offsets: list[Tensor] = []
    varies = torch.ones_like(number, dtype=torch.bool)
    squared_norms = torch.ones_like(number, dtype=p.dtype)
    for x in (p, q):
        mean = torch.where(counts, x, 0).sum(over, keepdim=True) / number
        offset = torch.where(counts, x - mean, 0)
        squared_norm = offset.square().sum(over, keepdim=True)
        # Equal numbers differ from their rounded mean; that is no relation, though one with an enormous slope.
        varies = varies & (squared_norm > number * (64 * torch.finfo(x.dtype).eps * mean) ** 2)
        squared_norms = squared_norms * squared_norm
        offsets.append(offset)
    varies = varies & (squared_norms > 1e-16)
    # The covariance with q itself: p's offsets add up to 0, and one tensor less waits for backward.
    covariance = (offsets[0] * q).sum(over, keepdim=True)
    correlation = covariance / torch.where(varies, squared_norms, 1).sqrt()  # the root's slope is infinite at 0
    return 1 - correlation, varies.to(p.dtype)
