"""DKD: decoupled knowledge distillation, Zhao, Cui, Song, Qiu and Liang 2022, https://arxiv.org/abs/2203.08679.

Differs from the published code in using log-sum-exp where that takes the logarithm of a probability that may be 0, and
in leaving out pixels without a label.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, labels_on_grid
from segdistill.losses._chunks import PIXELS, in_chunks
from segdistill.losses._divergences import HIDDEN, divergence, exponentials
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class Decoupled(Loss):
    """T²·(α·KL of "the labelled class or another" + β·KL among the other classes), in nats per labelled pixel.

    The KL divergence of all classes is the first plus the second times the target's probability of "another", so
    soft targets hardly see the second where the target is sure of itself. Keeps 1 logit-sized tensor for backward,
    which becomes the gradient.

    Args:
        temperature: T.
        target_weight: α; 1 in the paper.
        non_target_weight: β; 8 at T = 4 (CIFAR), 0.5 to 2 at T = 1 (ImageNet) in the paper.
    """

    of_classes = True

    def __init__(
        self,
        temperature: float = 1.0,
        target_weight: float = 1.0,
        non_target_weight: float = 1.0,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        for name, weight in (("target_weight", target_weight), ("non_target_weight", non_target_weight)):
            if weight < 0:
                raise Mistake(f"{name}: expected 0 or more, got {weight}")
        self.temperature = temperature
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight
        self.num_classes = num_classes

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        labels = labels_on_grid(labels, mask, self.num_classes, *student.shape[-2:])
        counts = labels != IGNORE
        known = torch.where(counts, labels, 0)[:, None]  # [b, 1, h, w]
        values = in_chunks(self._divergence, PIXELS, student, target, known)[:, 0]
        return global_mean(values, counts.to(values.dtype))

    def _divergence(self, student: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        t, alpha, beta = self.temperature, self.target_weight, self.non_target_weight
        ours, p, total, odds = split(at_least_float32(student), known, t)
        theirs, q, target_total, target_odds = split(at_least_float32(target), known, t)
        among_others = theirs.sub_(ours).mul_(q).sum(1, keepdim=True) / target_total + (
            total.log() - target_total.log()
        )
        binary, slope = divergence(torch.cat([odds, 0 * odds], 1), torch.cat([target_odds, 0 * odds], 1), 1.0, (1,))
        slope = alpha * slope[:, :1]
        gradient = p.mul_((beta - slope) / total).addcmul_(q, beta / target_total, value=-1)  # 0 at the known class
        gradient.scatter_(1, known, slope)
        return (alpha * binary + beta * among_others) * t**2, gradient.mul_(t)


def split(logits: Tensor, known: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`exponentials` of the other classes, and log p / (1 − p) of the known one."""
    others = logits.scatter(1, known, HIDDEN)
    below, powers, total = exponentials(others, temperature, (1,))
    odds = (logits.gather(1, known) - others.amax(1, keepdim=True)) / temperature - total.log()
    return below, powers, total, odds
