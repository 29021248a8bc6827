"""Soft targets, Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531, at every pixel.

Differs from most segmentation codes in its unit (nats per counting pixel, times T²) and in leaving padding out.
"""

from typing import final

from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid
from segdistill.mistakes import Mistake


@final
class SoftTargets(Loss):
    """T²·KL(target ‖ student) of the class distributions at temperature T, in nats per counting pixel.

    The factor T² keeps the gradient comparable to cross entropy's as T changes (section 2 of the paper).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        log_p = (at_least_float32(student) / self.temperature).log_softmax(1)
        log_q = (at_least_float32(target) / self.temperature).log_softmax(1)
        divergence = (log_q.exp() * (log_q - log_p)).sum(1)  # [b, h, w]
        counts = on_grid(mask, *student.shape[-2:]).to(divergence.dtype)
        return global_mean(divergence, counts) * self.temperature**2
