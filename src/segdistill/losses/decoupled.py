"""DKD: decoupled knowledge distillation, Zhao, Cui, Song, Qiu and Liang 2022, https://arxiv.org/abs/2203.08679.

Differs from the published code in using log-sum-exp where that takes the logarithm of a probability that may be 0, and
in leaving out pixels without a label.
"""

from typing import final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, labels_on_grid
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class Decoupled(Loss):
    """T²·(α·KL of "the labelled class or another" + β·KL among the other classes), in nats per labelled pixel.

    The KL divergence of all classes is the first plus the second times the target's probability of "another", so
    soft targets hardly see the second where the target is sure of itself. Keeps 3 logit-sized tensors for backward.

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
        log_p, log_p_others = split(at_least_float32(student) / self.temperature, known)
        log_q, log_q_others = split(at_least_float32(target) / self.temperature, known)
        binary = (log_q.exp() * (log_q - log_p)).sum(1)
        q_others = log_q_others.exp().scatter(1, known, 0)
        among_others = (q_others * (log_q_others - log_p_others)).sum(1)
        values = self.target_weight * binary + self.non_target_weight * among_others
        return global_mean(values, counts.to(values.dtype)) * self.temperature**2


def split(logits: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_known, 1 − p_known) [b, 2, h, w]; log p_c / (1 − p_known) [b, k, h, w], meaningless at the known class."""
    rest = logits.scatter(1, known, -torch.inf).logsumexp(1, keepdim=True)  # of the other classes
    return torch.cat([logits.gather(1, known), rest], 1).log_softmax(1), logits - rest
