"""Tversky loss, Salehi, Erdogmus and Gholipour 2017, https://arxiv.org/abs/1706.05721, eq. 4, averaged over classes.

Differs from the paper in the smoothing, and in the mean over the classes that the batch's labels contain.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean
from segdistill.losses._overlap import overlap
from segdistill.mistakes import Mistake


@final
class Tversky(Loss):
    """1 − (TP + ε) / (TP + α·FP + β·FN + ε) of each class over the labelled pixels, averaged over the classes in them.

    TP, FP and FN are sums of probabilities. α = β = ½ is the Dice loss with twice the ε; β > α asks for recall, which
    rare classes lack. The sums are over the images of one process, so the value depends on which images come together.
    Keeps nothing of the logits' size for backward.

    Args:
        alpha: α, the price of a pixel predicted too much.
        beta: β, the price of a pixel missed.
        smooth: ε, in pixels.
    """

    needs_target = False
    per_batch = True

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
            if value < 0:
                raise Mistake(f"{name}: expected 0 or more, got {value}")
        if alpha == beta == 0:
            raise Mistake("beta: expected more than 0 where alpha is 0, or nothing is wrong, got 0")
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        both, predicted, labelled = overlap(student, labels, mask)
        present = labelled > 0
        wrong = self.alpha * (predicted - both) + self.beta * (labelled - both)
        areas = torch.where(present, both + wrong + self.smooth, 1.0)
        return global_mean(wrong / areas, present.to(areas.dtype))
