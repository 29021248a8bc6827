"""Cross-image relations of pixels, Yang et al. 2022 (CIRKD), https://arxiv.org/abs/2204.06986, the mini-batch term.

Differs from the authors' code in leaving padding out (there, padded pixels are distilled as well).
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_ratio
from segdistill.losses._chunks import NOWHERE, in_chunks
from segdistill.losses._divergences import HIDDEN, divergence
from segdistill.losses._relations import unit_nodes
from segdistill.mistakes import Mistake


@final
class CrossImage(Loss):
    """KL(target ‖ student) of how similar a node of one image is to every node of another, in nats per node and pair.

    The similarities are a softmax of cosines / temperature, so channels may differ. All ordered pairs of the b images
    of one process count, an image with itself included: a mean over the nodes of each pair, then over the pairs
    that have nodes on both sides. The value depends on which images come together, and on how many.

    A node is the channel-wise maximum of pool × pool cells (1: a cell). Time grows with the square of b times the nodes
    m of an image. Keeps a few tensors of the size of the student's nodes for backward, and finds the gradient with the
    value: a dozen maps of m × m are alive at a time (2048 nodes: 16 MiB each) instead of several for each of b² pairs.

    The authors' weight is 1, with temperature 0.1 and pool 2.
    """

    same_channels = False
    per_batch = True

    def __init__(self, temperature: float = 0.1, pool: int = 2) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        if pool < 1:
            raise Mistake(f"pool: expected at least 1, got {pool}")
        self.temperature, self.pool = temperature, pool

    def forward(self, student: Features, target: Float[Tensor, "b d h w"], labels: Labels, mask: Mask) -> Scalar:
        s, there = unit_nodes(student, mask, self.pool)  # [b, c, m], [b, m]
        t, _ = unit_nodes(target, mask, self.pool)
        total = in_chunks(self._divergences, NOWHERE, s, t, there)
        images = there.any(1).to(total.dtype)
        return global_ratio(total, torch.outer(images, images))

    def _divergences(
        self, s: Float[Tensor, "b c m"], t: Float[Tensor, "b d m"], there: Bool[Tensor, "b m"]
    ) -> tuple[Scalar, Tensor]:
        """Their sum over all ordered pairs, and its gradient; the map of (i, j) is that of (j, i), transposed."""
        total, gradient = s.new_zeros(()), torch.zeros_like(s)
        for i in range(len(s)):
            for j in range(i, len(s)):
                ours, theirs = ((x[i].mT @ x[j]).div_(self.temperature) for x in (s, t))
                value, slopes = divergence_of_rows(ours, theirs, there[i], there[j])
                total += value
                if i != j:
                    value, others = divergence_of_rows(ours.mT, theirs.mT, there[j], there[i])
                    total += value
                    slopes += others.mT
                gradient[i] += s[j] @ slopes.mT
                gradient[j] += s[i] @ slopes
        return total, gradient.div_(self.temperature)


def divergence_of_rows(
    student: Float[Tensor, "m n"], target: Float[Tensor, "m n"], rows: Bool[Tensor, "m"], columns: Bool[Tensor, "n"]
) -> tuple[Scalar, Tensor]:
    """KL(target ‖ student) of each row's softmax over the columns that are there; the mean over the rows that are."""
    student, target = (torch.where(columns, x, HIDDEN) for x in (student, target))
    values, slopes = divergence(student, target, 1.0, (1,))
    weights = rows.to(values.dtype)[:, None] / rows.sum().clamp(min=1)
    return (values * weights).sum(), slopes.mul_(weights)
