"""BPKD: boundary-privileged distillation, Liu et al. 2024, https://arxiv.org/abs/2306.08075, simplified.

Differs from the paper in having one edge for all classes instead of a soft one for each, with plain soft targets on it,
and in leaving the edge out of the softmax of the channel-wise term.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, global_mean, on_grid
from segdistill.losses._divergences import class_divergence, map_divergence
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class BoundaryPrivileged(Loss):
    """Soft targets at pixels near a boundary between labels, channel-wise distillation of the other pixels.

    In nats per edge pixel, plus nats per map that has a pixel off the edge, both times T². Keeps 2 logit-sized tensors
    for backward.

    Args:
        width: of the square window, in pixels of the labels, odd; a pixel is edge when its window holds two classes.
        temperature: T, of both terms.
        edge: weight of soft targets on the edge.
        body: weight of the channel-wise term.
    """

    def __init__(self, width: int = 7, temperature: float = 1.0, edge: float = 1.0, body: float = 1.0) -> None:
        super().__init__()
        if width < 3 or width % 2 == 0:
            raise Mistake(f"width: expected an odd number of pixels, at least 3, got {width}")
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        for name, weight in (("edge", edge), ("body", body)):
            if weight < 0:
                raise Mistake(f"{name}: expected 0 or more, got {weight}")
        self.width = width
        self.temperature = temperature
        self.edge = edge
        self.body = body

    def forward(self, student: Features, target: Features, labels: Labels, mask: Mask) -> Scalar:
        edge = on_grid(near_boundary(labels, mask, self.width) & mask, *student.shape[-2:])
        body = on_grid(mask, *student.shape[-2:]) & ~edge
        of_pixel = class_divergence(student, target, self.temperature)
        of_map = map_divergence(student, target, body, self.temperature)
        maps = body.flatten(1).any(1, keepdim=True).to(of_map.dtype)  # [b, 1]
        return self.edge * global_mean(of_pixel, edge.to(of_pixel.dtype)) + self.body * global_mean(
            of_map, maps.expand_as(of_map)
        )


def near_boundary(labels: Labels, mask: Mask, width: int) -> Tensor:
    """Whether the window around a pixel holds two classes; void, what does not count and the border hold none."""
    known = mask & (labels != IGNORE)
    highest = largest(torch.where(known, labels, -1), width)
    lowest = -largest(torch.where(known, -labels, -IGNORE), width)
    return highest > lowest  # not in a window without a label: −1 and 255


def largest(values: Tensor, width: int) -> Tensor:
    """The largest value in the window around a pixel, along one axis after the other."""
    columns = F.max_pool2d(values.float(), (width, 1), 1, (width // 2, 0))
    return F.max_pool2d(columns, (1, width), 1, (0, width // 2))
