"""Soft targets, Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531, at every pixel.

Differs from most segmentation codes in its unit (nats per counting pixel, times T²) and in leaving padding out.
"""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._class_weights import ClassWeights, weights_of
from segdistill.losses._divergences import class_divergence
from segdistill.mistakes import Mistake


@final
class SoftTargets(Loss):
    """T²·KL(target ‖ student) of the class distributions at temperature T, in nats per counting pixel.

    The factor T² keeps the gradient comparable to cross entropy's as T changes (section 2 of the paper). Weighted, it
    is divided by the sum of the weights. Keeps 1 logit-sized tensor for backward, which becomes the gradient.

    Args:
        temperature: T.
        class_weights: of the class that the target finds most likely, so that rare classes are not drowned by the road;
            one weight per class, or a formula over the training split: inverse, median_frequency, enet, erfnet,
            effective_number. The weights of a cross entropy beside it have no effect here.
        weight_clip: the largest weight that a formula may give.
    """

    weights: Tensor | None

    def __init__(
        self,
        temperature: float = 1.0,
        class_weights: ClassWeights = None,
        weight_clip: float | None = None,
        *,
        num_classes: int = 0,
        class_pixels: Sequence[int] = (),
        class_image_pixels: Sequence[int] = (),
        channels: int = 0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        self.temperature = temperature
        weights = weights_of(class_weights, weight_clip, num_classes, class_pixels, class_image_pixels)
        if class_weights is not None and channels != num_classes:
            raise Mistake(f"class_weights: expected a target of {num_classes} classes, got {channels} channels")
        self.register_buffer("weights", None if class_weights is None else weights, persistent=False)

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        divergence = class_divergence(student, target, self.temperature)
        weights = on_grid(mask, *student.shape[-2:]).to(divergence.dtype)
        if self.weights is not None:
            weights = weights * self.weights.to(divergence.dtype)[target.argmax(1)]
        return global_mean(divergence, weights)
