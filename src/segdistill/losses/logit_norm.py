"""Logit normalisation, Wei, Xie, Cheng, Feng, An and Li 2022, https://arxiv.org/abs/2205.09310, eq. 5.

Differs in its unit: the mean over labelled pixels. The network's own logits stay unnormalised; what it says as a
teacher is softmax(z), not softmax(z / (τ‖z‖)).
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean
from segdistill.losses._likelihood import error
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

TINY = 1e-7
"""Added to a pixel's norm, as in the paper's code: logits of 0 have a direction of 0."""


@final
class LogitNorm(Loss):
    """−log softmax(z / (τ·‖z‖)) of the labelled class, in nats per labelled pixel: the size of z is not rewarded.

    Keeps 3 logit-sized tensors for backward.

    Args:
        temperature: τ; the paper's 0.04 is for 10 classes. The loss is never below ln(1 + (K − 1)·exp(−c/τ)), where
            c = sqrt(K / (K − 1)).
    """

    needs_target = False

    def __init__(self, temperature: float = 0.04) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        counts = mask & (labels != IGNORE)
        logits = at_least_float32(student)
        # A norm has no gradient where every logit is 0; a root of at least TINY² has.
        norm = logits.square().sum(1, keepdim=True).clamp(min=TINY**2).sqrt() + TINY
        errors = error(logits / (norm * self.temperature), torch.where(counts, labels, 0))  # [b, H, W]
        return global_mean(errors, counts.to(errors.dtype))
