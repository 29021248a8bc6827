"""Confidence penalty, Pereyra, Tucker, Chorowski, Kaiser and Hinton 2017, https://arxiv.org/abs/1701.06548, eq. 2.

Beside cross entropy, with `weight` as the paper's β, this is CE − β·H(p). Differs by a constant, ln K: it is 0 where
the output is uniform, never below, and its gradient is the paper's.
"""

import math
from typing import final

from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean
from segdistill.losses._entropy import entropy
from segdistill.types import IGNORE


@final
class ConfidencePenalty(Loss):
    """ln K − H(p): how far the output is from knowing nothing, in nats per labelled pixel.

    Keeps 1 logit-sized tensor for backward. The paper's weights are 0.1 to 1.
    """

    needs_target = False

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        missing = math.log(student.shape[1]) - entropy(student)  # [b, H, W]
        return global_mean(missing, (mask & (labels != IGNORE)).to(missing.dtype))
