"""Cross entropy with the ground truth; label smoothing of Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.

Class weights by name follow ENet (Paszke et al. 2016, https://arxiv.org/abs/1606.02147), 1 / ln(1.02 + f), and ERFNet
(Romera et al. 2018), 1 / ln(1.10 + f), with f the class's share of the labelled pixels of the training split.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_ratio
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class CrossEntropy(Loss):
    """−log p of the labelled class, in nats per labelled pixel; weighted, it is divided by the sum of the weights.

    Args:
        label_smoothing: ε of the target (1 − ε)·onehot + ε/K.
        class_weights: one weight per class, or the name of a formula over the training split's class frequencies.
    """

    needs_target = False
    weights: Tensor

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: list[float] | Literal["enet", "erfnet"] | None = None,
        *,
        num_classes: int,
        class_pixels: Sequence[int],
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise Mistake(f"label_smoothing: expected 0 <= ε < 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing
        if isinstance(class_weights, str):
            share = torch.tensor(class_pixels, dtype=torch.float64) / max(1, sum(class_pixels))
            weights = 1 / torch.log({"enet": 1.02, "erfnet": 1.10}[class_weights] + share)
        else:
            weights = torch.ones(num_classes) if class_weights is None else torch.tensor(class_weights)
        if len(weights) != num_classes or bool((weights < 0).any()):
            raise Mistake(
                f"class_weights: expected {num_classes} numbers, none below 0, got {len(weights)}: {weights.tolist()}"
            )
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        log_p = at_least_float32(student).log_softmax(1)
        counts = mask & (labels != IGNORE)
        known = torch.where(counts, labels, 0)
        class_weights = self.weights.to(log_p.dtype)
        weights = class_weights[known] * counts  # [b, H, W]
        values = -weights * log_p.gather(1, known[:, None])[:, 0]
        if self.label_smoothing > 0:  # as torch: the smoothed part carries every class's own weight
            smooth = -torch.einsum("bkhw,k->bhw", log_p, class_weights) / log_p.shape[1]
            values = (1 - self.label_smoothing) * values + self.label_smoothing * smooth * counts
        return global_ratio(values, weights)
