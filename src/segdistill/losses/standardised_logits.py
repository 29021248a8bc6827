"""Logit standardisation, Sun, Ren, Li, Wang and Cao 2024, https://arxiv.org/abs/2403.01427, then soft targets.

Differs from the published code in clamping the deviation at 1e-3: logits that hardly differ would explode.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._chunks import PIXELS, in_chunks, kept
from segdistill.losses._divergences import divergence
from segdistill.mistakes import Mistake


@final
class StandardisedLogits(Loss):
    """Soft targets of logits that have mean 0 and deviation 1 over a pixel's classes, in nats per counting pixel.

    A pixel's logits may be scaled and shifted without a change: the student learns the order of classes and their
    relative distances, not how sure to be. Keep cross entropy beside it. Keeps 1 logit-sized tensor for backward,
    which becomes the gradient.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        values = in_chunks(self._divergence, PIXELS, student, target, counts[:, None])[:, 0]
        return global_mean(values, counts.to(values.dtype))

    def _divergence(self, student: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            ours = standardised(student.requires_grad_(), counts)
        values, slopes = divergence(ours, standardised(target, counts), self.temperature, (1,))
        return values, torch.autograd.grad(ours, student, slopes)[0]


def standardised(logits: Tensor, counts: Tensor) -> Tensor:
    """(z − mean) / (deviation + 1e-7) over the classes; the deviation is the unbiased one, at least 1e-3."""
    logits = kept(logits, counts)  # padding could overflow below
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    return centred / (variance.clamp(min=1e-6).sqrt() + 1e-7)  # clamped before the root, whose slope is infinite at 0
