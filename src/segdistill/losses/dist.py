"""DIST: inter- and intra-relations, Huang, You, Wang, Qian and Xu 2022, https://arxiv.org/abs/2205.10536, eq. 9 and 10.

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
    """1 − the correlation of student's and target's probabilities: over the classes of a pixel, over the pixels of a class.

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
        counts = on_grid(mask, *student.shape[-2:])
        # Infinite logits where nothing counts would leave NaN in the softmax's gradient.
        p, q = (torch.where(counts[:, None], at_least_float32(x), 0).softmax(1) for x in (student, target))
        pixels = counts.sum().clamp(min=1)

        def off_mean(x: Tensor) -> Tensor:
            """From its class's mean over the counting pixels; 0 at the others."""
            mean = torch.where(counts[:, None], x, 0).sum((0, 2, 3), keepdim=True) / pixels
            return torch.where(counts[:, None], x - mean, 0)

        of_pixel, has_pixel = correlation(p - 1 / p.shape[1], q - 1 / q.shape[1], q, [1])  # a pixel's mean is 1/K
        of_class, has_class = correlation(off_mean(p), off_mean(q), q, [0, 2, 3])
        inter = global_mean(1 - of_pixel, (has_pixel & counts).to(p.dtype))
        intra = global_mean(1 - of_class, has_class.to(p.dtype))
        return self.inter * inter + self.intra * intra


def correlation(a: Tensor, b: Tensor, uncentred_b: Tensor, over: list[int]) -> tuple[Tensor, Tensor]:
    """Pearson's correlation of two centred tensors, and where there is one: where both vary.

    The covariance is with b before centring. As a adds up to 0 it is the same, and one tensor less waits for backward.
    """
    norms_squared = a.square().sum(over) * b.square().sum(over)
    varies = norms_squared > 1e-16
    norms = torch.where(varies, norms_squared, 1).sqrt()  # the root's slope is infinite at 0
    return (a * uncentred_b).sum(over) / norms, varies
