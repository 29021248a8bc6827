"""The shelf of models: one file, one architecture, with its stages named.

A model normalises by itself: it takes RGB in [0, 1], so that a teacher and a student that were trained on different
statistics see the same image.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segdistill.types import Stage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Model(nn.Module, ABC):
    """A network whose `forward` returns every named stage, `logits` always among them."""

    stages: Mapping[str, Stage]
    initial: ClassVar[tuple[str, ...]] = ()
    """Settings that say only where the first weights come from; not asked again where trained weights replace them."""
    brings_weights: bool = False
    """Whether it comes trained, so that it can teach without `weights`; of the class: whether it may."""
    checkpointing: bool | None = None
    """Whether a backward pass computes activations again instead of keeping them; None: the network cannot."""

    @abstractmethod
    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        """RGB in [0, 1] -> {stage: [b, channels, ceil(H / stride), ceil(W / stride)]}, keys as in `stages`."""
