"""Focal loss, Lin, Goyal, Girshick, He and Dollár 2017, https://arxiv.org/abs/1708.02002, eq. 5, of several classes.

Differs from the paper in the softmax (there, one sigmoid per class) and in the unit: the mean over labelled pixels.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_ratio
from segdistill.losses._class_weights import ClassWeights, weights_of
from segdistill.losses._likelihood import error
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class Focal(Loss):
    """−(1 − p)^γ·log p of the labelled class, per labelled pixel; weighted, it is divided by the sum of the weights.

    Only class weights are in the divisor, not (1 − p)^γ: the loss fades as pixels become easy. Keeps 1 logit-sized
    tensor for backward.

    Args:
        gamma: γ; 0 is cross entropy, 2 the paper's.
        class_weights: α of the paper; one weight per class, or a formula over the training split: inverse,
            median_frequency, enet, erfnet, effective_number.
        weight_clip: the largest weight that a formula may give.
    """

    needs_target = False
    weights: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        class_weights: ClassWeights = None,
        weight_clip: float | None = None,
        *,
        num_classes: int,
        class_pixels: Sequence[int],
        class_image_pixels: Sequence[int],
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise Mistake(f"gamma: expected 0 or more, got {gamma}")
        self.gamma = gamma
        weights = weights_of(class_weights, weight_clip, num_classes, class_pixels, class_image_pixels)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        counts = mask & (labels != IGNORE)
        known = torch.where(counts, labels, 0)
        errors = error(student, known)  # [b, H, W]
        # At p = 1 a power below 1 has an infinite slope, and infinity times the error of 0 is NaN.
        others = -torch.expm1(-errors).clamp(max=-1e-12)
        weights = self.weights.to(errors.dtype)[known] * counts
        return global_ratio(weights * others**self.gamma * errors, weights)
