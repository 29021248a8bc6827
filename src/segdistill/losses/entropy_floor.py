"""A floor under the entropy of every pixel's output: the confidence penalty (Pereyra et al. 2017,
https://arxiv.org/abs/1701.06548) with a hinge, which leaves alone what is uncertain enough.

The hinge on the output's own entropy is ours (the paper mentions a threshold). Beside cross entropy, with `weight` as
β: CE + β·max(0, H* − H(p)).
"""

import math
from typing import final

from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean
from segdistill.losses._entropy import entropy
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class EntropyFloor(Loss):
    """max(0, floor − H(p)), in nats per labelled pixel. Keeps 1 logit-sized tensor for backward.

    Args:
        floor: H* in nats, at most ln K, the entropy of knowing nothing.
    """

    needs_target = False
    may_rest = True

    def __init__(self, floor: float = 0.5, *, num_classes: int) -> None:
        super().__init__()
        if not 0 < floor <= math.log(num_classes):
            most = f"ln {num_classes} = {math.log(num_classes):.3f}"
            raise Mistake(f"floor: expected 0 < nats <= {most}, got {floor}")
        self.floor = floor

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        missing = (self.floor - entropy(student)).clamp(min=0)  # [b, H, W]
        return global_mean(missing, (mask & (labels != IGNORE)).to(missing.dtype))
