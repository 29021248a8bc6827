"""What the networks of this shelf are made of: convolution blocks, their first weights, padding and cropping."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, final

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Normalisation = Literal["batch", "group"]


def block(before: int, after: int, normalisation: Normalisation, separable: bool) -> nn.Sequential:
    """Two convolutions, each normalised and rectified."""
    return nn.Sequential(
        *_convolution(before, after, separable),
        _normalise(after, normalisation),
        nn.ReLU(inplace=True),
        *_convolution(after, after, separable),
        _normalise(after, normalisation),
        nn.ReLU(inplace=True),
    )


def _convolution(before: int, after: int, separable: bool) -> list[nn.Module]:
    if not separable or before == 3:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False)]
    depthwise = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
    return [depthwise, nn.Conv2d(before, after, 1, bias=False)]


def _normalise(channels: int, kind: Normalisation) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(g for g in range(min(8, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def recomputed(stage: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What `forward`, which runs `stage`, makes of its inputs, of which alone the backward pass keeps anything.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174: it computes the rest again. Nothing in a stage may be random.
    """
    contexts = lambda: (nullcontext(), _OnCopies(stage))  # noqa: E731
    found = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    assert isinstance(found, Tensor)
    return found


@final
class _OnCopies(AbstractContextManager[None]):
    """The statistics of batch normalisation have seen this batch: what sees it again is a copy of them.

    Entered once for each backward pass through the stage.
    """

    def __init__(self, stage: nn.Module) -> None:
        self.places = [(module, name) for module in stage.modules() for name, _ in module.named_buffers(recurse=False)]
        self.buffers: list[Tensor] = []

    def __enter__(self) -> None:
        self.buffers = [module.get_buffer(name) for module, name in self.places]
        for (module, name), buffer in zip(self.places, self.buffers, strict=True):
            setattr(module, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for (module, name), buffer in zip(self.places, self.buffers, strict=True):
            setattr(module, name, buffer)


def initialise(module: nn.Module) -> None:
    """He et al. 2015, https://arxiv.org/abs/1502.01852, for rectified layers."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def padding(height: int, width: int, multiple: int) -> list[int]:
    """[left, right, top, bottom] zeros (the mean colour) that make both sides a multiple; more than needed nowhere."""
    return [0, -width % multiple, 0, -height % multiple]


def crop(value: Tensor, height: int, width: int, stride: int) -> Tensor:
    """What belongs to an image of height × width pixels, rounded up to whole cells."""
    return value[..., : -(-height // stride), : -(-width // stride)]
