"""Pearson hints, PKD, Cao et al. 2022, https://arxiv.org/abs/2207.02039, eq. 4 and 5.

Differs from the paper in leaving cells that do not count out of the statistics and of the mean.
"""

from typing import final

from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_ratio, on_grid
from segdistill.losses._chunks import CHANNELS, by_autograd, in_chunks, kept


@final
class StandardisedHint(Loss):
    """½ of the mean squared difference after each channel is standardised over the counting cells of the batch.

    That is 1 − Pearson's correlation, mean over channels (times (n − 1)/n for n cells, as the deviation is the unbiased
    one): the student may have any scale and offset per channel. A channel without variance, of a dead unit for example,
    is 0 after standardisation; a dead target channel thus costs ½ and moves nobody.

    Mean and deviation are of the images of one process. Keeps one stage-sized tensor for backward, which becomes
    the gradient.
    """

    per_batch = True

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        squares = in_chunks(by_autograd(_squares), CHANNELS, student, target, counts[:, None])  # [1, c, 1, 1]
        return global_ratio(squares.mean(), counts.to(squares.dtype)) / 2


def _squares(student: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    difference = _standardised(student, counts) - _standardised(target, counts)
    return difference.square().sum((0, 2, 3), keepdim=True)


def _standardised(stage: Tensor, counts: Tensor) -> Tensor:
    """(x − mean) / deviation per channel where cells count, elsewhere 0."""
    stage, counts = kept(stage, counts[:, :1]), counts[:, :1]
    weights = counts.to(stage.dtype)
    cells = weights.sum()
    mean = stage.sum((0, 2, 3), keepdim=True) / cells.clamp(min=1)
    centred = (stage - mean) * weights
    variance = centred.square().sum((0, 2, 3), keepdim=True) / (cells - 1).clamp(min=1)
    return centred / (variance.clamp(min=1e-12).sqrt() + 1e-6)  # the root's gradient at 0 would be infinite
