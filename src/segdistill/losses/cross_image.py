"""Cross-image relations of pixels, Yang et al. 2022 (CIRKD), https://arxiv.org/abs/2204.06986, the mini-batch term.

Differs from the authors' code in leaving padding out (there, padded pixels are distilled as well).
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean
from segdistill.losses._relations import unit_nodes
from segdistill.mistakes import Mistake


@final
class CrossImage(Loss):
    """KL(target ‖ student) of how similar a node of one image is to every node of another, in nats per node and pair.

    The similarities are a softmax of cosines / temperature, so channels may differ. All ordered pairs of the b images
    of one process count, an image with itself included: a mean over the nodes of each pair, then over the pairs
    that have nodes on both sides. The value depends on which images come together, and on how many.

    A node is the channel-wise maximum of pool × pool cells (1: a cell). Time grows with the square of b times the nodes
    m of an image. Keeps only the nodes for backward, and computes each pair twice: four maps of m × m are alive at a
    time (2048 nodes: 16 MiB each) instead of 2·b².

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
        s, there = unit_nodes(at_least_float32(student), mask, self.pool)  # [b, c, m], [b, m]
        t, _ = unit_nodes(at_least_float32(target), mask, self.pool)
        # A product carries the temperature: m × c numbers are divided rather than m × m.
        queries = s.mT / self.temperature, t.mT / self.temperature  # [b, m, c]
        pairs = [(i, j) for i in range(len(s)) for j in range(len(s))]
        divergences = torch.stack(
            [
                checkpoint(
                    divergence,
                    *(queries[0][i], s[j], queries[1][i], t[j], there[i], there[j]),
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for i, j in pairs
            ]
        )
        images = there.any(1).to(divergences.dtype)
        return global_mean(divergences, torch.outer(images, images).flatten())


def divergence(
    student_queries: Float[Tensor, "m c"],
    student_keys: Float[Tensor, "c n"],
    target_queries: Float[Tensor, "m d"],
    target_keys: Float[Tensor, "d n"],
    rows: Bool[Tensor, "m"],
    columns: Bool[Tensor, "n"],
) -> Scalar:
    """KL(target ‖ student) of each row's softmax over the columns that are there; the mean over the rows that are."""
    absent = torch.finfo(student_queries.dtype).min  # −inf would give NaN when no column is there
    log_p = torch.where(columns, student_queries @ student_keys, absent).log_softmax(1)
    log_q = torch.where(columns, target_queries @ target_keys, absent).log_softmax(1)
    each = (log_q.exp() * (log_q - log_p)).sum(1)
    return torch.where(rows, each, 0.0).sum() / rows.sum().clamp(min=1)
