"""The shelf of losses: one file, one published loss; this page is what they have in common.

A loss is called with student and target on one grid, the labels and `mask`, the pixels that count for this edge. Pixel
losses are in nats per counting pixel of the global batch: a sum over pixels divided by a count over all ranks.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from segdistill.types import IGNORE

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

    of_classes: bool = False
    """Whether channels are classes, of the labels' numbering: it then learns from logits only."""

    several: bool = False
    """Whether an end is a list of stages: `student` and `target` are then sequences, each stage in its own size and
    channels, deepest first; `channels` and `student_channels` are tuples."""

    per_batch: bool = False
    """Whether it compares the images of one process with each other, or uses their statistics; the value for a batch is
    then not the mean of the values for its parts. Its docstring says so."""

    may_rest: bool = False
    """Whether 0, without a gradient, can be right from the beginning: a hinge that no pixel crosses yet."""

    silent_at_first: bool = False
    """Whether it is 0, without a gradient, until a memory of its own has filled."""

    @abstractmethod
    def forward(self, student: Any, target: Any, labels: Labels, mask: Mask) -> Scalar: ...


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
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return values.sum() / torch.where(total > 0, total, torch.ones_like(total))


def on_grid(mask: Mask, height: int, width: int) -> Bool[Tensor, "b h w"]:
    """The mask at a stage's resolution: a cell counts when more than half of it counts."""
    if mask.shape[-2:] == (height, width):
        return mask
    return F.adaptive_avg_pool2d(mask.float()[:, None], (height, width))[:, 0] > 0.5


def labels_on_grid(labels: Labels, mask: Mask, num_classes: int, height: int, width: int) -> Int64[Tensor, "b h w"]:
    """The labels at a stage's resolution: the class on more than half of a cell's pixels, among those that count.

    A cell without such a class, and at full size a pixel that does not count, is IGNORE. (Nearest-neighbour sampling,
    as in several published codes, takes a cell's corner and is off by half a cell.)
    """
    full = labels.shape[-2:]
    if full == (height, width):
        return torch.where(mask, labels, IGNORE)
    device = labels.device
    rows = torch.arange(full[0], device=device) * height // full[0]
    columns = torch.arange(full[1], device=device) * width // full[1]
    cell = rows[:, None] * width + columns  # [H, W]
    kind = torch.where(mask & (labels != IGNORE), labels, num_classes)  # the last kind: no class
    place = (kind * (height * width) + cell).flatten(1)
    counts = torch.zeros(len(labels), (num_classes + 1) * height * width, device=device)
    counts = counts.scatter_add(1, place, torch.ones_like(place, dtype=counts.dtype))
    counts = counts.view(-1, num_classes + 1, height, width)
    most, found = counts[:, :num_classes].max(1)
    return torch.where(2 * most > counts.sum(1), found, IGNORE)
