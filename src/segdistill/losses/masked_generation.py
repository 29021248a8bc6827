"""Masked generative distillation, Yang et al. 2022, https://arxiv.org/abs/2205.01529, eq. 3 to 5.

Differs from the paper in its unit (a mean over channels and counting cells instead of a sum per image), in the hidden
channels of the generator, which `width` limits, and in leaving cells that do not count out of the generator's input.
"""

from typing import final

import torch
from torch import Tensor, nn

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid
from segdistill.mistakes import Mistake


@final
class MaskedGeneration(Loss):
    """The mean squared difference of the target and what a generator makes of the student with hidden cells.

    A cell of the student is hidden with probability `ratio`, all channels of it; what is left is not scaled up. The
    generator, 3×3 convolution, ReLU, 3×3 convolution, learns with the student and has to fill in the rest. Evaluation
    hides nothing.

    The cells are drawn from a generator of its own, seeded by the recipe and kept in the `state_dict`, so that a
    resumed run draws what an uninterrupted one would. All processes draw the same cells.

    Keeps two stage-sized tensors for backward, and one with the hidden channels.

    Args:
        ratio: the probability that a cell is hidden, at least 0 and less than 1.
        width: hidden channels of the generator, where the target has more than that. The paper's has as many as the
            target, 18·C² weights, which are 19 million at C = 1024.
    """

    def __init__(self, ratio: float = 0.75, width: int = 256, *, channels: int, seed: int) -> None:
        super().__init__()
        if not 0 <= ratio < 1:
            raise Mistake(f"ratio: expected at least 0 and less than 1, got {ratio}")
        if width < 1:
            raise Mistake(f"width: expected at least 1, got {width}")
        self.ratio = ratio
        hidden = min(width, channels)
        self.generation: nn.Module = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1)
        )
        self._random = torch.Generator().manual_seed(seed)

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])[:, None]
        seen = counts & self._drawn(counts) if self.training else counts
        generated = self.generation(torch.where(seen, at_least_float32(student), 0))
        difference = torch.where(counts, generated - at_least_float32(target), 0)
        return global_mean(difference.square().mean(1), counts[:, 0].to(difference.dtype))

    def get_extra_state(self) -> Tensor:
        return self._random.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._random.set_state(state.cpu())

    def _drawn(self, like: Tensor) -> Tensor:
        """True where a cell is left; on the CPU, so that every device sees the same."""
        return (torch.rand(like.shape, generator=self._random) >= self.ratio).to(like.device, non_blocking=True)
