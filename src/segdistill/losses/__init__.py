"""The shelf of losses: one file, one published loss; this page is what they have in common.

A loss is called with student and target on one grid, the labels and `mask`, the pixels that count for this edge. Pixel
losses are in nats per counting pixel of the global batch: a sum over pixels divided by a count over all ranks.
"""

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Features = Float[Tensor, "b c h w"]
Labels = Int64[Tensor, "b H W"]
Mask = Bool[Tensor, "b H W"]
Scalar = Float[Tensor, ""]


class Loss(nn.Module, ABC):
    """How far a student is from what it learns from; a final subclass per file."""

    same_channels: bool = True
    """Whether student and target must have the same channels (the edge then adds a 1×1 adapter where they differ)."""

    needs_target: bool = True
    """Whether it learns from a stage of a model; else from the labels, or from nobody."""

    @abstractmethod
    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar: ...


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision raised to float32; float64 stays float64."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def global_mean(values: Tensor, weights: Tensor) -> Scalar:
    """Σ values·weights over the sum of the weights of all ranks; 0, attached to the graph, when nothing counts."""
    return global_ratio(values * weights, weights)


def global_ratio(values: Tensor, weights: Tensor) -> Scalar:
    """Σ values over the sum of the weights of all ranks.

    Data parallelism averages gradients over ranks, so each rank divides by (global sum / ranks): the mean of the ranks'
    results, and of their gradients, is then the ratio of the global batch, however unevenly it is spread.
    """
    total = weights.detach().sum()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return values.sum() / torch.where(total > 0, total, torch.ones_like(total))


def on_grid(mask: Mask, height: int, width: int) -> Bool[Tensor, "b h w"]:
    """The mask at a stage's resolution: a cell counts when more than half of it counts."""
    if mask.shape[-2:] == (height, width):
        return mask
    return F.adaptive_avg_pool2d(mask.float()[:, None], (height, width))[:, 0] > 0.5
