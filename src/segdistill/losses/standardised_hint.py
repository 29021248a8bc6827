"""Pearson hints, PKD, Cao et al. 2022, https://arxiv.org/abs/2207.02039, eq. 4 and 5.

Differs from the paper in leaving cells that do not count out of the statistics and of the mean.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid


@final
class StandardisedHint(Loss):
    """½ of the mean squared difference after each channel is standardised over the counting cells of the batch.

    That is 1 − Pearson's correlation, mean over channels (times (n − 1)/n for n cells, as the deviation is the unbiased
    one): the student may have any scale and offset per channel. A channel without variance, of a dead unit for example,
    is 0 after standardisation; a dead target channel thus costs ½ and moves nobody.

    Mean and deviation are of the images of one process. Keeps two stage-sized tensors for backward.
    """

    per_batch = True

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        difference = _standardised(student, counts) - _standardised(target, counts)
        return global_mean(difference.square().mean(1), counts.to(difference.dtype)) / 2


def _standardised(stage: Tensor, counts: Tensor) -> Tensor:
    """(x − mean) / deviation per channel where cells count, elsewhere 0."""
    stage, counts = at_least_float32(stage), counts[:, None]
    cells = counts.sum().to(stage.dtype)
    mean = torch.where(counts, stage, 0).sum((0, 2, 3), keepdim=True) / cells.clamp(min=1)
    centred = torch.where(counts, stage - mean, 0)
    variance = centred.square().sum((0, 2, 3), keepdim=True) / (cells - 1).clamp(min=1)
    return centred / (variance.clamp(min=1e-12).sqrt() + 1e-6)  # the root's gradient at 0 would be infinite
