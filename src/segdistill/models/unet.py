"""UNet with named stages, Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597.

Differs from the paper: padded convolutions (the output is as large as the input), batch or group normalisation, any
input size (padded inside with the mean colour at the right and bottom, cropped back), optional separable blocks.
"""

from collections.abc import Mapping
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segdistill.mistakes import Mistake
from segdistill.models import IMAGENET_MEAN, IMAGENET_STD, Model
from segdistill.models._blocks import Normalisation, block, crop, initialise, padding, recomputed
from segdistill.types import Stage

WIDEST = 8192
"""Channels: eight times the paper's, 2 billion parameters; a file that asks for more is refused, not tried."""


@final
class UNet(Model):
    """`enc1…encD, bottleneck, decD…dec1, logits`; stage `enc1` has `width` channels, each one down has twice as many.

    Width 64 and depth 4 are the paper's (31 M parameters); both parameters and MACs scale with the square of the width.

    Args:
        width: channels of the first stage.
        depth: times the resolution is halved.
        normalisation: batch (statistics per process), or group (8 groups at most; independent of the batch).
        separable: depthwise 3×3 followed by pointwise 1×1 instead of 3×3, Howard et al. 2017,
            https://arxiv.org/abs/1704.04861: about 5 times fewer parameters and MACs.
    """

    mean: Tensor
    std: Tensor
    checkpointing: bool | None = False

    def __init__(
        self,
        width: int = 64,
        depth: int = 4,
        normalisation: Normalisation = "batch",
        separable: bool = False,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if width < 1 or not 1 <= depth <= 6 or width * 2**depth > WIDEST:
            limits = f"width >= 1 and 1 <= depth <= 6, at most {WIDEST} channels (width × 2^depth) at the bottleneck"
            raise Mistake(f"unet: expected {limits}, got width {width} and depth {depth}")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            block(before, after, normalisation, separable)
            for before, after in zip([3, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottleneck = block(widths[-2], widths[-1], normalisation, separable)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(block(2 * w, w, normalisation, separable) for w in reversed(widths[:-1]))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.stages = _stages(widths, num_classes)
        self.apply(initialise)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        (height, width), depth = image.shape[-2:], len(self.encoder)
        x = F.pad((image - self.mean) / self.std, padding(height, width, 2**depth))
        found: dict[str, Tensor] = {}
        skips: list[Tensor] = []
        again = self.checkpointing and torch.is_grad_enabled()
        for level, encode in enumerate(self.encoder, 1):
            x = recomputed(encode, encode, x) if again else encode(x)
            skips.append(x)
            found[f"enc{level}"] = x
            x = F.max_pool2d(x, 2)
        x = recomputed(self.bottleneck, self.bottleneck, x) if again else self.bottleneck(x)
        found["bottleneck"] = x
        for level, up, decode in zip(range(depth, 0, -1), self.up, self.decoder, strict=True):
            join = partial(_join, up, decode)
            x = recomputed(decode, join, skips[level - 1], x) if again else join(skips[level - 1], x)
            found[f"dec{level}"] = x
        found["logits"] = self.classifier(x)
        return {name: crop(value, height, width, self.stages[name].stride) for name, value in found.items()}


def _join(up: nn.Module, decode: nn.Module, skip: Tensor, x: Tensor) -> Tensor:
    return decode(torch.cat([skip, up(x)], 1))


def _stages(widths: list[int], num_classes: int) -> Mapping[str, Stage]:
    depth = len(widths) - 1
    down = {f"enc{level}": Stage(widths[level - 1], 2 ** (level - 1)) for level in range(1, depth + 1)}
    up = {f"dec{level}": Stage(widths[level - 1], 2 ** (level - 1)) for level in range(depth, 0, -1)}
    return {**down, "bottleneck": Stage(widths[-1], 2**depth), **up, "logits": Stage(num_classes, 1)}
