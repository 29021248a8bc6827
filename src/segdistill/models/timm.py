"""Any convolutional encoder of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models) in a UNet.

The decoder is that of our UNet, so it has named stages down to the encoder's first stride; from there the logits are
interpolated to the image's size, as a block at full size would cost more than all others together.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segdistill import parts
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.models import Model
from segdistill.models._blocks import Normalisation, block, crop, initialise, padding
from segdistill.models._files import fill_timm
from segdistill.types import Stage

HUB = "hub"


@final
class Timm(Model):
    """`enc1…encD, bottleneck, decD…dec1, logits`: a residual network has strides 2…16, 32, 16…2, 1.

    >>> Timm("resnet18", num_classes=19)  # doctest: +SKIP

    Args:
        encoder: a name from `timm.list_models()` whose features halve from one to the next.
        encoder_weights: `hub`: timm's own, downloaded; or a safetensors file with timm's names, from which the
            classifier is left out. Default: random.
        width: channels of `dec1`; each one down has twice as many.
        normalisation: of the decoder: batch (statistics per process), or group (8 groups at most).
        separable: depthwise 3×3 followed by pointwise 1×1 instead of 3×3 in the decoder.

    Raises:
        Mistake: no such encoder, features that do not halve, or weights that do not fit.
    """

    initial: ClassVar[tuple[str, ...]] = ("encoder_weights",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: str = "tf_efficientnet_lite0",
        encoder_weights: str | None = None,
        width: int = 32,
        normalisation: Normalisation = "batch",
        separable: bool = False,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if width < 1:
            raise Mistake(f"width: expected at least 1, got {width}")
        timm = parts.optional("timm", "smp", "timm")
        if not timm.is_model(encoder):
            raise Mistake(f"encoder: timm has no '{encoder}'{nearest(encoder, timm.list_models())}")
        self.encoder = _encoder(timm, encoder, encoder_weights == HUB)
        channels: list[int] = self.encoder.feature_info.channels()
        self.strides: list[int] = self.encoder.feature_info.reduction()
        _check(self.encoder, encoder, channels, self.strides)
        self.register_buffer("mean", torch.tensor(self.encoder.pretrained_cfg["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(self.encoder.pretrained_cfg["std"]).view(3, 1, 1))
        widths = [width * 2**level for level in range(len(channels) - 1)]
        after, before = widths[::-1], [channels[-1], *widths[:0:-1]]
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for b, a in zip(before, after, strict=True))
        self.decoder = nn.ModuleList(
            block(skip + a, a, normalisation, separable) for skip, a in zip(channels[-2::-1], after, strict=True)
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for ours in (self.up, self.decoder, self.classifier):
            ours.apply(initialise)
        self.stages = _stages(channels, self.strides, widths, num_classes)
        if encoder_weights is not None and encoder_weights != HUB:
            fill_timm(timm, self.encoder, encoder, Path(encoder_weights))

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        x = F.pad((image - self.mean) / self.std, padding(height, width, self.strides[-1]))
        *skips, x = self.encoder(x)
        found: dict[str, Tensor] = {f"enc{level}": skip for level, skip in enumerate(skips, 1)}
        found["bottleneck"] = x
        for level, up, decode in zip(range(len(skips), 0, -1), self.up, self.decoder, strict=True):
            x = decode(torch.cat([skips[level - 1], up(x)], 1))
            found[f"dec{level}"] = x
        logits = self.classifier(x)
        if self.strides[0] > 1:
            logits = F.interpolate(logits, scale_factor=float(self.strides[0]), mode="bilinear", align_corners=False)
        found["logits"] = logits
        return {name: crop(value, height, width, self.stages[name].stride) for name, value in found.items()}


def _encoder(timm: Any, name: str, pretrained: bool) -> Any:
    """Without its classifier; its forward gives a list of features."""
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True)
    except OSError as error:
        raise Mistake(f"encoder_weights: the hub does not give us those of {name}: {error}") from error
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # what encoders without features raise
        raise Mistake(f"encoder: {name} gives no features: {error}") from error


def _check(encoder: nn.Module, name: str, channels: Sequence[int], strides: Sequence[int]) -> None:
    """Tokens in one resolution, channels last and images of one size only are what our decoder cannot take."""
    if len(strides) < 2 or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise Mistake(f"encoder: expected features whose strides double, {name} has {one_of(map(str, strides))}")
    side = 2 * strides[-1]
    expected = [(1, c, side // stride, side // stride) for c, stride in zip(channels, strides, strict=True)]
    training = encoder.training
    try:
        with torch.no_grad():
            found = [tuple(feature.shape) for feature in encoder.eval()(torch.zeros(1, 3, side, side))]
    except (AssertionError, RuntimeError) as error:
        raise Mistake(f"encoder: {name} does not take an image of {side}×{side}: {error}") from error
    encoder.train(training)
    if found != expected:
        raise Mistake(f"encoder: expected features {expected} of an image of {side}×{side}, {name} gives {found}")


def _stages(
    channels: Sequence[int], strides: Sequence[int], widths: Sequence[int], num_classes: int
) -> Mapping[str, Stage]:
    levels = range(1, len(channels))
    down = {f"enc{level}": Stage(channels[level - 1], strides[level - 1]) for level in levels}
    up = {f"dec{level}": Stage(widths[level - 1], strides[level - 1]) for level in reversed(levels)}
    return {**down, "bottleneck": Stage(channels[-1], strides[-1]), **up, "logits": Stage(num_classes, 1)}
