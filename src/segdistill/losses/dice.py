"""Soft Dice, Milletari, Navab and Ahmadi 2016, https://arxiv.org/abs/1606.04797, averaged over classes.

Differs from the paper in that areas, not squares, stand in the denominator, in the smoothing, and in the mean over the
classes that the batch's labels contain.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean
from segdistill.losses._overlap import overlap
from segdistill.mistakes import Mistake


@final
class Dice(Loss):
    """1 − (2·Σp·g + ε) / (Σp + Σg + ε) of each class over the labelled pixels, averaged over the classes in the labels.

    Every class counts the same, however few pixels it has. The sums are over the images of one process, so the value
    depends on which images come together. Keeps nothing of the logits' size for backward.

    Args:
        smooth: ε, in pixels.
    """

    needs_target = False
    per_batch = True

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        if smooth < 0:
            raise Mistake(f"smooth: expected 0 or more, got {smooth}")
        self.smooth = smooth

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        both, predicted, labelled = overlap(student, labels, mask)
        present = labelled > 0
        areas = torch.where(present, predicted + labelled + self.smooth, 1.0)
        # 1 − (2·both + ε) / areas, without the difference of two numbers near 1
        return global_mean((predicted + labelled - 2 * both) / areas, present.to(areas.dtype))
