"""Pair-wise affinity of structured knowledge distillation, Liu et al. 2019, https://arxiv.org/abs/1903.04197.

Differs from the authors' code, which pools to 2 × 2 nodes and takes the norms for constants: here nodes are pool × pool
cells and the gradient goes through the norm. Padding is left out.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean
from segdistill.losses._relations import unit_nodes
from segdistill.mistakes import Mistake


@final
class PairwiseAffinity(Loss):
    """Mean squared difference of the cosines of all pairs of nodes, per image; then the mean over images with a node.

    A node is the channel-wise maximum of pool × pool cells. Only cosines are compared, so channels may differ. Time and
    memory grow with the square of the nodes m: keeps one m × m map per image for backward (2048 nodes, a stride of 8 in
    a crop of 512 × 1024 with pool 2: 16 MiB) beside two of the student's pooled features.

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
        s, there = unit_nodes(at_least_float32(student), mask, self.pool)  # [b, c, m]
        t, _ = unit_nodes(at_least_float32(target), mask, self.pool)
        difference = torch.baddbmm(t.mT @ t, s.mT, s, beta=-1)  # [b, m, m], 0 where a node is missing
        nodes = there.sum(1).to(difference.dtype)
        return global_mean(difference.square().sum((1, 2)) / nodes.clamp(min=1).square(), (nodes > 0).to(nodes.dtype))
