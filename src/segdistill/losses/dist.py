"""DIST: inter- and intra-relations, Huang, You, Wang, Qian and Xu 2022, https://arxiv.org/abs/2205.10536.

Differs from the published code in that pixels and classes without variance leave their mean (there each adds a constant
1), and in having no temperature. Its factor T², found in other codes, has no place here: a correlation has no scale.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._chunks import PIXELS, kept, sums_in_chunks
from segdistill.losses._correlation import Moments, distance, joined, moments
from segdistill.losses._divergences import probabilities
from segdistill.mistakes import Mistake


@final
class Dist(Loss):
    """1 − Pearson's correlation of the two probabilities: of a pixel over classes, and of a class over pixels.

    The second is over the counting pixels of one process's batch, so the value depends on what is in a batch together.
    Keeps nothing of the logits' size for backward.

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
        of_pixels, there, *of_classes = sums_in_chunks(_both, PIXELS, student, target, counts, gradient=_gradient)
        inter = global_mean(of_pixels, there)
        intra = global_mean(*distance(joined(Moments(*of_classes))))
        return self.inter * inter + self.intra * intra


def _both(student: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """Of every pixel the distance and whether there is one, then the moments of the classes."""
    p, q = (probabilities(x, counts) for x in (student, target))
    weights = counts.to(p.dtype)
    values, varies = distance(moments(p, q, [1]))
    return values, varies * weights, *moments(p, q, [0, 2, 3], weights)


def _gradient(slopes: Sequence[Tensor], student: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Of `_both`: u·p + v·q + w, each the same for a pixel or for a class, through the softmax."""
    of_pixels, _, _, of_mean, _, of_square, _, of_product = slopes
    p, q = (probabilities(x, counts) for x in (student, target))
    weights = counts.to(p.dtype)
    number = weights.sum().clamp(min=1)
    p_mean, q_mean = ((x * weights).sum((0, 2, 3), keepdim=True) / number for x in (p, q))
    pixel = moments(p, q, [1])
    varies = of_pixels != 0
    norm = torch.where(varies, pixel.p_square * pixel.q_square, 1).rsqrt()
    fall = of_pixels * norm * pixel.product / torch.where(varies, pixel.p_square, 1)
    # A pixel's own means are the same for all its classes, which the softmax's gradient does not see.
    slope = (fall + 2 * of_square).mul_(p).add_((of_product - of_pixels * norm).mul_(q))
    slope.add_(of_mean / number - 2 * of_square * p_mean - of_product * q_mean)
    return kept(slope.sub_((slope * p).sum(1, keepdim=True)).mul_(p), counts)
