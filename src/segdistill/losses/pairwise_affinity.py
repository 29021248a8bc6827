"""Pair-wise affinity of structured knowledge distillation, Liu et al. 2019, https://arxiv.org/abs/1903.04197.

Differs from the authors' code, which pools to 2 × 2 nodes and takes the norms for constants: here nodes are pool × pool
cells and the gradient goes through the norm. Padding is left out.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean
from segdistill.losses._chunks import IMAGES, in_chunks
from segdistill.losses._relations import unit_nodes
from segdistill.mistakes import Mistake

ROWS = 256
"""Of the map of cosines, at a time."""


@final
class PairwiseAffinity(Loss):
    """Mean squared difference of the cosines of all pairs of nodes, per image; then the mean over images with a node.

    A node is the channel-wise maximum of pool × pool cells. Only cosines are compared, so channels may differ. Time
    grows with the square of the nodes, memory does not: of the map of cosines, 256 rows are alive at a time. Keeps a
    few tensors of the size of the student's nodes for backward.

    The authors' weight is 0.5 with 4 nodes; 10 in CIRKD's code with pool 2.
    """

    # The expanded square, |SᵀS|² − 2|SᵀT|² + |TᵀT|², needs no map of m × m, but subtracts numbers near 1 whose
    # difference is near 0: in float32 noise of 1e-7 (with TF32 1e-3) would stand where the loss is.

    same_channels = False

    def __init__(self, pool: int = 2) -> None:
        super().__init__()
        if pool < 1:
            raise Mistake(f"pool: expected at least 1, got {pool}")
        self.pool = pool

    def forward(self, student: Features, target: Float[Tensor, "b d h w"], labels: Labels, mask: Mask) -> Scalar:
        s, there = unit_nodes(student, mask, self.pool)  # [b, c, m]
        t, _ = unit_nodes(target, mask, self.pool)
        squares = in_chunks(_squares, IMAGES, s, t)[:, 0, 0]
        nodes = there.sum(1).to(squares.dtype)
        return global_mean(squares / nodes.clamp(min=1).square(), (nodes > 0).to(nodes.dtype))


def _squares(s: Float[Tensor, "b c m"], t: Float[Tensor, "b d m"]) -> tuple[Tensor, Tensor]:
    """Σ (sᵀs − tᵀt)² and its gradient, a few rows at a time; the lower triangle mirrors the upper one."""
    total, gradient = s.new_zeros(len(s), 1, 1), torch.zeros_like(s)
    for start in range(0, s.shape[2], ROWS):
        rows, columns, later = slice(start, start + ROWS), slice(start, None), slice(start + ROWS, None)
        difference = torch.baddbmm(t[..., rows].mT @ t[..., columns], s[..., rows].mT, s[..., columns], beta=-1)
        mirrored = difference[..., ROWS:]
        total += difference.square().sum((1, 2), keepdim=True) + mirrored.square().sum((1, 2), keepdim=True)
        gradient[..., rows] += s[..., columns] @ difference.mT
        gradient[..., later] += s[..., rows] @ mirrored
    return total, gradient.mul_(4)
