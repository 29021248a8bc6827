"""Attention transfer, Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928, eq. 2 with p = 2.

Differs from the paper in squaring the distance of two maps, and from the authors' code in summing over a map's cells
where they take the mean, so that the size of the stage does not matter (their weight of 1000 at 8×8 cells is 16 here).
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._chunks import PIXELS, in_chunks, kept


@final
class Attention(Loss):
    """The squared distance of the maps mean_c F², each of length 1 over an image's counting cells; mean over images.

    Between 0 and 2. A map says where a stage is active, not what it sees, so channels need no adapter. Images without a
    counting cell leave the mean. Keeps one stage-sized tensor for backward, which becomes the
    gradient.
    """

    same_channels = False

    def forward(self, student: Features, target: Float[Tensor, "b d h w"], labels: Labels, mask: Mask) -> Scalar:
        counts = on_grid(mask, *student.shape[-2:])
        distance = (_map(student, counts) - _map(target, counts)).square().sum(1)  # [b]
        return global_mean(distance, counts.flatten(1).any(1).to(distance.dtype))


def _map(stage: Tensor, counts: Tensor) -> Tensor:
    """[b, hw], of length 1, or 0 where nothing is active; a cell that does not count is 0."""
    active = in_chunks(_activity, PIXELS, stage, counts[:, None])
    return F.normalize(active.flatten(1), dim=1)


def _activity(stage: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    stage, channels = kept(stage, counts), stage.shape[1]
    return torch.linalg.vecdot(stage, stage, dim=1)[:, None] / channels, stage.mul_(2 / channels)
