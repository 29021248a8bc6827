"""Knowledge review, ReviewKD, Chen et al. 2021, https://arxiv.org/abs/2104.09044, section 3.

Differs from the authors' code in normalising per image instead of per batch, in pooling to cells as wide as high (the
code pools a road of 1:2 to squares), in resizing bilinearly to a target of another size, and in leaving out what does
not count: before the convolutions, in the norms, the pools and the means.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.losses import Labels, Loss, Mask, Scalar, at_least_float32, global_mean, on_grid
from segdistill.mistakes import Mistake

POOLED_ROWS = (4, 2, 1)


@final
class Review(Loss):
    """Each target stage is compared with what the student's stage and all deeper ones say together; a sum over stages.

    Stages come deepest first, e.g. bottleneck, dec4, dec3. Each is taken to `width` channels, mixed with the mixture of
    the deeper ones by two gates per cell, and taken to the target's channels. The comparison, the paper's hierarchical
    context loss, is the mean squared difference over channels and counting cells, at full size and pooled to 4, 2 and 1
    rows where the stage has more; the weights are 1, ½, ¼, … over their sum.

    Keeps per stage for backward: one tensor with the student's channels, two with the target's, four with `width`.

    Args:
        width: channels of the mixture, where the student's deepest stage has more than that.
    """

    several = True

    def __init__(self, width: int = 512, *, channels: tuple[int, ...], student_channels: tuple[int, ...]) -> None:
        super().__init__()
        if width < 1:
            raise Mistake(f"width: expected at least 1, got {width}")
        width = min(width, student_channels[0])
        self.levels = nn.ModuleList(
            _Level(ours, width, theirs, deepest=i == 0)
            for i, (ours, theirs) in enumerate(zip(student_channels, channels, strict=True))
        )

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor], labels: Labels, mask: Mask) -> Scalar:
        heights = [stage.shape[-2] for stage in student]
        if heights != sorted(heights):
            raise Mistake(f"student: expected the stages deepest first, got stages with {heights} rows")
        losses: list[Tensor] = []
        mixture: Tensor | None = None
        for level, ours, theirs in zip(self.levels, student, target, strict=True):
            mixture, said = level(ours, mixture, on_grid(mask, *ours.shape[-2:])[:, None])
            size = theirs.shape[-2:]
            said = said if said.shape[-2:] == size else F.interpolate(said, size, mode="bilinear")
            counts = on_grid(mask, *size)[:, None]
            losses.append(_hierarchical(torch.where(counts, said - at_least_float32(theirs), 0), counts))
        return torch.stack(losses).sum()


class _Level(nn.Module):
    """Fuses a stage with the mixture of the deeper ones; cells that do not count are 0 before every kernel."""

    def __init__(self, student: int, width: int, target: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter, self.enter_norm = nn.Conv2d(student, width, 1, bias=False), _ImageNorm(width)
        self.fuse: nn.Module = nn.Identity() if deepest else _Gates(width)
        self.leave, self.leave_norm = nn.Conv2d(width, target, 3, padding=1, bias=False), _ImageNorm(target)

    def forward(self, stage: Tensor, deeper: Tensor | None, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture for the next level, and what is compared with the target."""
        mixture = self.enter_norm(self.enter(torch.where(counts, at_least_float32(stage), 0)), counts)
        if deeper is not None:
            raised = F.interpolate(deeper, mixture.shape[-2:], mode="nearest")
            mixture = torch.where(counts, self.fuse(mixture, raised), 0)
        return mixture, self.leave_norm(self.leave(mixture), counts)


class _Gates(nn.Module):
    """a·x + b·y; the gates a and b, one number per cell each, are the sigmoid of a 1×1 convolution of x and y."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # In two halves: their sum is the convolution of both side by side, without a copy of them for backward.
        self.of_own, self.of_deeper = nn.Conv2d(width, 2, 1), nn.Conv2d(width, 2, 1, bias=False)

    def forward(self, own: Tensor, deeper: Tensor) -> Tensor:
        gates = (self.of_own(own) + self.of_deeper(deeper)).sigmoid()  # [b, 2, h, w]
        return gates[:, :1] * own + gates[:, 1:] * deeper


class _ImageNorm(nn.Module):
    """GroupNorm with one group, over the counting cells of an image; the others are 0.

    The paper's BatchNorm would make the value depend on the other images of a process, and fail on a stage of one cell.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        elements = (counts.sum((1, 2, 3), keepdim=True) * x.shape[1]).clamp(min=1)
        mean = torch.where(counts, x, 0).sum((1, 2, 3), keepdim=True) / elements
        centred = torch.where(counts, x - mean, 0)
        variance = centred.square().sum((1, 2, 3), keepdim=True) / elements
        return torch.where(counts, centred * (self.weight * (variance + 1e-5).rsqrt()) + self.bias, 0)


def _hierarchical(difference: Tensor, counts: Tensor) -> Scalar:
    """The hierarchical context loss of a difference that is 0 where cells do not count."""
    height, width = difference.shape[-2:]
    weight = weights = 1.0
    total = global_mean(difference.square().mean(1), counts[:, 0].to(difference.dtype))
    for rows in POOLED_ROWS:
        if rows < min(height, width):
            weight /= 2
            weights += weight
            size = (rows, max(1, round(rows * width / height)))
            share = F.adaptive_avg_pool2d(counts.to(difference.dtype), size)
            pooled = F.adaptive_avg_pool2d(difference, size) / torch.where(share > 0, share, 1)  # sum / count
            total = total + weight * global_mean(pooled.square().mean(1), (share[:, 0] > 0).to(difference.dtype))
    return total / weights
