"""Any torch network of a user's own package, with stages tapped from the outputs of its submodules.

The only hooks of the package: they are set for one forward pass and taken off after it, so that a copy, a moving
average or a weights file knows nothing of them.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segdistill import parts
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.models import IMAGENET_MEAN, IMAGENET_STD, Model
from segdistill.models._blocks import crop, padding
from segdistill.models._files import fill, read_tensors
from segdistill.types import Stage

_TAP = re.compile(r"""(?P<module>[\w.]*)(@(?P<firing>[1-9]\d*))?(?P<index>(\[(\d+|'[^']*'|"[^"]*")\])*)""")


class _Tap(NamedTuple):
    """Where a stage is found: the output of a submodule's n-th call, and the way into it."""

    said: str
    module: str
    firing: int | None
    way: tuple[int | str, ...]


@final
class Hooked(Model):
    """Stages in the order of `taps`, with the strides and channels that a forward pass of a black image shows.

    >>> Hooked(
    ...     "torchvision.models.segmentation:deeplabv3_resnet50",
    ...     {"enc4": "backbone.layer4", "logits": "['out']"},
    ...     {"num_classes": 19, "weights_backbone": None},
    ... )  # doctest: +SKIP

    Args:
        module: `package.module:callable`, called with `arguments`; `--plugin package` allows it to run.
        taps: stage -> dotted path of a submodule, as `named_modules()` says it, then where its output is no tensor the
            way into it: `backbone.layer3`, `head[0]`, `decode.out['aux']`, and `['out']` for the network's own output.
            A submodule that is called several times needs the number of the call: `block@2`. `logits` among them.
        checkpoint: safetensors, or a `.pth` that holds tensors only; names and shapes are the network's.
        trained: the callable brings the weights, so that the network may teach without a checkpoint.
        mean, std: of the network's channels, in its order and its scale.
        scale: what white is to the network: 1 or 255.
        bgr: whether it takes blue, green, red.
        multiple: image sides are padded inside, with the mean colour, to a multiple of it; what the network's deepest
            stage needs. The forward pass that measures the stages takes 2 × 3 of it.

    Raises:
        Mistake: no such callable or argument, a tap that finds nothing or no [b, c, h, w], a checkpoint that does not
            fit.
    """

    initial: ClassVar[tuple[str, ...]] = ("checkpoint",)
    brings_weights = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: str,
        taps: dict[str, str],
        arguments: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        trained: bool = False,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        scale: float = 1.0,
        bgr: bool = False,
        multiple: int = 32,
    ) -> None:
        super().__init__()
        if min(std) <= 0 or scale <= 0 or multiple < 1:
            raise Mistake(f"std, scale and multiple: expected positive numbers, got {std}, {scale} and {multiple}")
        if "logits" not in taps:
            raise Mistake(f"taps: expected logits among them, got {one_of(taps)}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.scale, self.bgr, self.multiple = scale, bgr, multiple
        self.network = _network(module, arguments or {})
        if checkpoint is not None:
            fill(self.network, read_tensors(Path(checkpoint), "checkpoint"), f"checkpoint: {checkpoint}")
        self.brings_weights = trained or checkpoint is not None
        self.taps = {stage: _parsed(stage, tap, self.network) for stage, tap in taps.items()}
        self.overwritten: frozenset[str] = frozenset()
        """Stages that a later layer writes into; they are handed out as copies."""
        self.stages = self._measure()

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        x = (self.scale * (image.flip(1) if self.bgr else image) - self.mean) / self.std
        found = self._tapped(F.pad(x, padding(height, width, self.multiple)))
        return {name: crop(found[name], height, width, stage.stride) for name, stage in self.stages.items()}

    def _tapped(self, x: Tensor, versions: dict[str, int] | None = None) -> dict[str, Tensor]:
        """`versions` is told how often each tensor had been written into when it was found."""
        found: dict[str, Tensor] = {}
        calls: dict[str, int] = {}

        def listen(path: str, stages: Sequence[str]) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
                calls[path] = calls.get(path, 0) + 1
                for stage in stages:
                    if self.taps[stage].firing in (None, calls[path]):
                        value = _follow(stage, self.taps[stage], output)
                        found[stage] = value.clone() if stage in self.overwritten else value
                        if versions is not None:
                            versions[stage] = value._version

            return hook

        wanted: dict[str, list[str]] = {}
        for stage, tap in self.taps.items():
            wanted.setdefault(tap.module, []).append(stage)
        handles = [
            self.network.get_submodule(path).register_forward_hook(listen(path, stages))
            for path, stages in wanted.items()
        ]
        try:
            self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        for stage, tap in self.taps.items():
            count = calls.get(tap.module, 0)
            if stage not in found:
                raise Mistake(f"taps.{stage}: '{tap.said}' never fires; '{tap.module}' is called {count} times")
            if tap.firing is None and count > 1:
                said = f"'{tap.module}' is called {count} times in a forward pass"
                raise Mistake(f"taps.{stage}: {said}; say which, as in '{tap.module}@{count}'")
        return found

    def _measure(self) -> Mapping[str, Stage]:
        """The stages of a black image with sides of different length, so that a pooled 1×1 has no stride."""
        height, width = 2 * self.multiple, 3 * self.multiple
        was = self.network.training
        self.network.eval()
        versions: dict[str, int] = {}
        with torch.no_grad():
            found = self._tapped(torch.zeros(1, 3, height, width), versions)
        self.network.train(was)
        self.overwritten = frozenset(name for name, value in found.items() if value._version != versions[name])
        stages: dict[str, Stage] = {}
        for name, value in found.items():
            cells = value.shape[-2:]
            stride = height // max(1, cells[0])
            if (stride * cells[0], stride * cells[1]) != (height, width) or self.multiple % stride:
                image = f"an image of {height}×{width} pixels gives {cells[0]}×{cells[1]} cells"
                raise Mistake(f"taps.{name}: {image}, no whole stride that divides multiple: {self.multiple}")
            stages[name] = Stage(value.shape[1], stride)
        return {name: stages[name] for name in self.taps}


def _network(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    make = parts.imported(path, "module")
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise Mistake(f"arguments: {path}: {error}") from error
    network = make(**arguments)
    if not isinstance(network, nn.Module):
        raise Mistake(f"module: {path} gives a {type(network).__name__}, expected a torch module")
    return network


def _parsed(stage: str, said: str, network: nn.Module) -> _Tap:
    match = _TAP.fullmatch(said)
    if match is None:
        raise Mistake(
            f"taps.{stage}: expected a path as in backbone.layer3, head[0], out['aux'] or block@2, got '{said}'"
        )
    path, firing = match["module"], match["firing"]
    known = [name for name, _ in network.named_modules()]
    if path not in known:
        children = [name for name, _ in network.named_children()]
        near = nearest(path, known) or f"; it has {one_of(children)}"
        raise Mistake(f"taps.{stage}: the network has no submodule '{path}'{near}")
    steps = re.findall(r"\[(?:(\d+)|'([^']*)'|\"([^\"]*)\")\]", match["index"])
    index = tuple(int(number) if number else single or double for number, single, double in steps)
    return _Tap(said, path, int(firing) if firing else None, index)


def _follow(stage: str, tap: _Tap, output: object) -> Tensor:
    """The tensor that a tap means in its module's output."""
    for key in tap.way:
        if isinstance(output, Mapping) and key in output:
            output = output[key]
        elif isinstance(key, int) and isinstance(output, list | tuple) and key < len(output):
            output = output[key]  # a position
        else:
            raise Mistake(f"taps.{stage}: '{tap.said}': there is no {key!r} in {_described(output)}")
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise Mistake(f"taps.{stage}: expected a tensor [b, c, h, w], '{tap.said}' gives {_described(output)}")
    return output


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {one_of(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
