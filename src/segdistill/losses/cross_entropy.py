"""Cross entropy with the ground truth; label smoothing of Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, and
logit adjustment of Menon et al. 2021, https://arxiv.org/abs/2007.07314, eq. 10.

Differs from most segmentation codes in its unit: nats per labelled pixel of all ranks together.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_ratio
from segdistill.losses._class_weights import ClassWeights, log_prior, weights_of
from segdistill.losses._likelihood import error, weighted_error
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class CrossEntropy(Loss):
    """−log p of the labelled class, in nats per labelled pixel; weighted, it is divided by the sum of the weights.

    Keeps 1 logit-sized tensor for backward, which becomes the gradient; smoothed, 2.

    Args:
        label_smoothing: ε of the target (1 − ε)·onehot + ε/K.
        class_weights: one weight per class, or a formula over the training split: inverse, median_frequency, enet,
            erfnet, effective_number.
        weight_clip: the largest weight that a formula may give.
        logit_adjustment: τ of p = softmax(logits + τ·ln π), with π the classes' shares of the training split's labelled
            pixels. The logits then learn what a pixel would be if all classes were equally frequent (τ = 1), so nothing
            is added when predicting: mIoU gains at the cost of calibration.
    """

    needs_target = False
    weights: Tensor
    shift: Tensor

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        weight_clip: float | None = None,
        logit_adjustment: float = 0.0,
        *,
        num_classes: int,
        class_pixels: Sequence[int],
        class_image_pixels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise Mistake(f"label_smoothing: expected 0 <= ε < 1, got {label_smoothing}")
        if logit_adjustment < 0:
            raise Mistake(f"logit_adjustment: expected 0 or more, got {logit_adjustment}")
        self.label_smoothing = label_smoothing
        self.logit_adjustment = logit_adjustment
        weights = weights_of(class_weights, weight_clip, num_classes, class_pixels, class_image_pixels)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("shift", logit_adjustment * log_prior(class_pixels).float(), persistent=False)

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        shift = self.shift if self.logit_adjustment > 0 else None
        counts = mask & (labels != IGNORE)
        known = torch.where(counts, labels, 0)
        errors = error(student, known, shift)  # [b, H, W]
        class_weights = self.weights.to(errors.dtype)
        weights = class_weights[known] * counts
        values = weights * errors
        if self.label_smoothing > 0:  # as torch: the smoothed part carries every class's own weight
            smooth = weighted_error(student, class_weights, shift) / len(class_weights)
            values = (1 - self.label_smoothing) * values + self.label_smoothing * smooth * counts
        return global_ratio(values, weights)
