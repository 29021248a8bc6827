"""Hints, FitNets, Romero et al. 2015, https://arxiv.org/abs/1412.6550, eq. 3.

Differs from the paper in its unit (a mean over channels and counting cells instead of half a sum) and in being trained
together with the other losses, not before them; the regressor is the edge's 1×1 adapter.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid
from segdistill.losses._chunks import PIXELS, in_chunks, kept


@final
class Hint(Loss):
    """The mean squared difference of two stages over channels and counting cells.

    Its size goes with the square of the target's scale, so a weight found for one stage does not serve another;
    `standardised_hint` does not have that problem. Keeps one stage-sized tensor for backward.
    """

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        values = in_chunks(_squares, PIXELS, student, target, counts[:, None])[:, 0]
        return global_mean(values, counts.to(values.dtype))


def _squares(student: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    difference = kept(at_least_float32(student) - at_least_float32(target), counts)
    channels = student.shape[1]
    return torch.linalg.vecdot(difference, difference, dim=1)[:, None] / channels, difference.mul_(2 / channels)
