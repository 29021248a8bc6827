"""Any network of segmentation_models_pytorch, Iakubovskii 2019, https://github.com/qubvel-org/segmentation_models.pytorch."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segdistill import parts
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.models import IMAGENET_MEAN, IMAGENET_STD, Model
from segdistill.models._blocks import crop, padding
from segdistill.models._files import fill_encoder, fill_timm
from segdistill.types import Stage

HUB = "hub"
MULTIPLE = 32
"""Images are padded to a multiple of the deepest stride that its encoders have."""
OURS = {"encoder_name", "encoder_weights", "encoder_depth", "in_channels", "classes", "kwargs"} | {
    "activation",
    "aux_params",
}
"""Arguments of an architecture that are settings of ours; activation and aux_params give what is not logits."""
UNIVERSAL = "tu-"
"""Before the name of an encoder that is timm's."""


@final
class Smp(Model):
    """`enc1…encN`, the encoder's features; `decoder`, what the segmentation head gets; `logits`.

    >>> Smp("deeplabv3plus", "resnet50", num_classes=19)  # doctest: +SKIP

    Args:
        architecture: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet or
            segformer.
        encoder: one of smp's, or `tu-` before one of timm's.
        encoder_weights: `hub`: those of ImageNet, downloaded; or a safetensors file with the encoder's names, from
            which the classifier is left out. Default: random.
        encoder_depth: features that the encoder gives; default: the architecture's. Parameters beyond the last one
            are there, but do not learn.
        options: further arguments of the architecture, such as decoder_channels.

    Raises:
        Mistake: smp knows no such thing, or the weights do not fit.
    """

    initial: ClassVar[tuple[str, ...]] = ("encoder_weights",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str = "unet",
        encoder: str = "resnet18",
        encoder_weights: str | None = None,
        encoder_depth: int | None = None,
        options: dict[str, Any] | None = None,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        smp = parts.optional("segmentation_models_pytorch", "smp", "smp")
        network = _network(
            smp, architecture, encoder, encoder_weights == HUB, encoder_depth, options or {}, num_classes
        )
        if encoder_weights is not None and encoder_weights != HUB:
            _fill(network.encoder, encoder, Path(encoder_weights))
        mean, std = _statistics(smp, encoder, encoder_weights == HUB)
        self.register_buffer("mean", mean.view(3, 1, 1))
        self.register_buffer("std", std.view(3, 1, 1))
        self.encoder, self.decoder, self.head = network.encoder, network.decoder, network.segmentation_head
        self.stages = self._measure()

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        found = self._network(F.pad((image - self.mean) / self.std, padding(height, width, MULTIPLE)))
        return {name: crop(value, height, width, self.stages[name].stride) for name, value in found.items()}

    def _network(self, x: Tensor) -> dict[str, Tensor]:
        features: list[Tensor] = self.encoder(x)
        real = [feature for feature in features[1:] if feature.shape[1]]  # the first is x; a transformer has none at 2
        found = {f"enc{level}": feature for level, feature in enumerate(real, 1)}
        found["decoder"] = self.decoder(features)
        found["logits"] = self.head(found["decoder"])
        return found

    def _measure(self) -> Mapping[str, Stage]:
        """The stages of a black image that pyramids of pooling find large enough; what reaches none is frozen."""
        side = 4 * MULTIPLE
        self.eval()
        with torch.enable_grad():
            found = self._network(torch.zeros(1, 3, side, side))
            torch.stack([value.sum() for value in found.values()]).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)  # processes wait for the gradient of every parameter
            parameter.grad = None
        self.train()
        return {name: Stage(value.shape[1], side // value.shape[2]) for name, value in found.items()}


def _network(
    smp: Any, architecture: str, encoder: str, hub: bool, depth: int | None, options: Mapping[str, Any], classes: int
) -> Any:
    known = [name for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "dpt"]  # its decoder takes more than features
    if architecture not in known:
        raise Mistake(f"architecture: smp has no '{architecture}' for us{nearest(architecture, known)}")
    encoders: list[str] = smp.encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith(UNIVERSAL):
        raise Mistake(f"encoder: smp has no '{encoder}'{nearest(encoder, encoders)}; timm's begin with {UNIVERSAL}")
    accepted = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture]).parameters.keys() - OURS
    for option in options:
        if option not in accepted:  # smp itself would pass it on to an encoder that does not look
            known = sorted(accepted)
            raise Mistake(f"options.{option}: {architecture} accepts {one_of(known)}{nearest(option, known)}")
    weights = None if not hub else True if encoder.startswith(UNIVERSAL) else "imagenet"
    chosen = {} if depth is None else {"encoder_depth": depth}
    try:
        return smp.create_model(architecture, encoder, weights, 3, classes, **chosen, **options)
    except OSError as error:
        raise Mistake(f"encoder_weights: the hub does not give us those of {encoder}: {error}") from error
    except (
        AssertionError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # all that smp checks, and what it does not
        raise Mistake(f"{architecture} with {encoder}: {error}") from error


def _fill(encoder: Any, name: str, path: Path) -> None:
    if name.startswith(UNIVERSAL):
        timm = parts.optional("timm", "smp", "smp")
        fill_timm(timm, encoder.model, name.removeprefix(UNIVERSAL), path)
    else:
        ours = {child for child, _ in encoder.named_children()}
        fill_encoder(encoder, path, lambda tensor: tensor.split(".")[0] not in ours)


def _statistics(smp: Any, encoder: str, hub: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the colours that the weights know; smp asks the hub for those of its own."""
    if not hub and not encoder.startswith(UNIVERSAL):
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    try:
        said = smp.encoders.get_preprocessing_params(encoder)
    except ValueError:  # timm has no weights for it, so none that know any colours
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if said["input_space"] != "RGB":
        raise Mistake(f"encoder: {encoder} takes {said['input_space']}, we give RGB; a hooked network may be told")
    white = said["input_range"][1]
    return torch.tensor(said["mean"]) / white, torch.tensor(said["std"]) / white
