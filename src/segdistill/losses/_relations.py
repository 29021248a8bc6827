"""What losses that compare cells with each other share: unit vectors, and the nodes that a map is pooled to."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.losses import Mask, at_least_float32, on_grid
from segdistill.losses._chunks import MAPS, sums_in_chunks


def inverse_length(vectors: Tensor, dim: int) -> Tensor:
    """1 / length of the vectors along `dim`, which stays; with its gradient.

    A vector shorter than 1e-6 has no direction: the answer is 0 with gradient 0. (`F.normalize` would multiply the
    gradient by 1e12, and features behind a ReLU are often exactly 0.)
    """
    square = vectors.square().sum(dim, keepdim=True)
    has_direction = square > 1e-12
    return torch.where(has_direction, torch.where(has_direction, square, 1.0).rsqrt(), 0.0)


def unit(vectors: Tensor, dim: int) -> Tensor:
    """The vectors along `dim` at length 1, or 0 where there is no direction."""
    return vectors * inverse_length(vectors, dim)


def unit_nodes(
    features: Float[Tensor, "b c h w"], mask: Mask, pool: int
) -> tuple[Float[Tensor, "b c m"], Bool[Tensor, "b m"]]:
    """Unit vectors of the nodes, and which nodes are there; the others are 0.

    A node is the maximum, channel by channel, of the cells that count in a pool × pool window.
    """
    counts = on_grid(mask, *features.shape[-2:])[:, None]
    (nodes,) = sums_in_chunks(partial(_highest, pool), MAPS, features, counts)
    there = F.max_pool2d(counts.float(), pool, ceil_mode=True) > 0
    return unit(nodes.flatten(2), 1), there.flatten(1)


def _highest(pool: int, features: Tensor, counts: Tensor) -> tuple[Tensor]:
    """The nodes' features, 0 where no cell counts."""
    nodes = F.max_pool2d(torch.where(counts, at_least_float32(features), -torch.inf), pool, ceil_mode=True)
    return (torch.where(nodes > -torch.inf, nodes, 0.0),)
