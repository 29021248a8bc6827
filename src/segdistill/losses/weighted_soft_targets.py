"""Weighted soft labels, Zhou, Song, Chen et al. 2021, https://arxiv.org/abs/2102.00650, at every pixel.

Differs from the paper in being a KL divergence (0 at equality), not a cross entropy, and in leaving the paper's own
cross entropy with the labels to another edge.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, labels_on_grid
from segdistill.losses._chunks import PIXELS, sums_in_chunks
from segdistill.losses._divergences import class_divergence
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class WeightedSoftTargets(Loss):
    """Soft targets times w = 1 − exp(−CE(student) / CE(target)), in nats per labelled pixel.

    Where the student already fits the label better than the target does, the soft target only regularises, and is
    damped. The cross entropies are at temperature 1 and w gets no gradient; a target that is sure of the label has
    w near 1. Keeps 1 logit-sized tensor for backward, which becomes the gradient.
    """

    of_classes = True

    def __init__(self, temperature: float = 2.0, *, num_classes: int) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature
        self.num_classes = num_classes

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        labels = labels_on_grid(labels, mask, self.num_classes, *student.shape[-2:])
        counts = labels != IGNORE
        known = torch.where(counts, labels, 0)[:, None]
        errors, target_errors = (
            sums_in_chunks(_error, PIXELS, logits.detach(), known)[0][:, 0] for logits in (student, target)
        )
        weights = -torch.expm1(-errors / (target_errors + 1e-7))
        divergence = class_divergence(student, target, self.temperature)
        return global_mean(weights * divergence, counts.to(divergence.dtype))


def _error(logits: Tensor, known: Tensor) -> tuple[Tensor]:
    return (-at_least_float32(logits).log_softmax(1).gather(1, known),)
