"""Channel-wise distillation, Shu, Liu, Gao, Yan and Shen 2021, https://arxiv.org/abs/2011.13256, eq. 3.

Differs from most codes in that pixels that do not count leave the softmax over space, not only the sum after it.
"""

from typing import final

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._divergences import map_divergence
from segdistill.mistakes import Mistake


@final
class ChannelWise(Loss):
    """T²·KL(target ‖ student) of each channel's softmax over space, in nats per map that has a counting pixel.

    Of logits or of features. A constant added to a whole map changes nothing, so it says where a class is, not how
    frequent it is: keep another loss beside it. Keeps 1 tensor of the student's size for backward, which becomes the
    gradient.

    Args:
        temperature: T; the paper uses 4 with weight 3 for logits and 50 for features.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        divergence = map_divergence(student, target, counts, self.temperature)
        weights = counts.flatten(1).any(1, keepdim=True).to(divergence.dtype)  # [b, 1]
        return global_mean(divergence, weights.expand_as(divergence))
