"""Cross entropy of the hardest pixels (OHEM), Shrivastava, Gupta and Girshick 2016, https://arxiv.org/abs/1604.03540.

The paper selects regions of a detector; for pixels the rule of most segmentation codes is used: a threshold on the
labelled class's probability, and a least number of pixels.
"""

import math
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
class Ohem(Loss):
    """−log p of the labelled class, in nats per kept pixel; weighted, it is divided by the sum of the kept weights.

    Kept is p ≤ threshold, and at least the `min_kept` pixels of smallest p (and their ties) in the batch of one
    process, or all where fewer are labelled: the value depends on which images come together. Weights play no part in
    the choice. Soft targets beside it still learn from every pixel. Keeps 1 logit-sized tensor for backward.

    Args:
        threshold: the probability up to which a pixel is hard.
        min_kept: in pixels of the labels' resolution, per process and step.
        class_weights: one weight per class, or a formula over the training split: inverse, median_frequency, enet,
            erfnet, effective_number.
        weight_clip: the largest weight that a formula may give.
    """

    needs_target = False
    per_batch = True
    weights: Tensor

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weights: ClassWeights = None,
        weight_clip: float | None = None,
        *,
        num_classes: int,
        class_pixels: Sequence[int],
        class_image_pixels: Sequence[int],
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise Mistake(f"threshold: expected 0 < p <= 1, got {threshold}")
        if min_kept < 1:
            raise Mistake(f"min_kept: expected at least 1 pixel, got {min_kept}")
        self.threshold, self.min_kept = threshold, min_kept
        weights = weights_of(class_weights, weight_clip, num_classes, class_pixels, class_image_pixels)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        counts = mask & (labels != IGNORE)
        known = torch.where(counts, labels, 0)
        errors = error(student, known)  # [b, H, W]
        kept = counts & (errors.detach() >= self.least_error(torch.where(counts, errors.detach(), -1.0)))
        weights = self.weights.to(errors.dtype)[known] * kept
        return global_ratio(weights * errors, weights)

    def least_error(self, errors: Tensor) -> Tensor:
        """Where keeping begins; pixels that do not count have an error below all others."""
        hardest = errors.flatten().topk(min(self.min_kept, errors.numel()), sorted=False).values
        return hardest.min().clamp(max=-math.log(self.threshold))
