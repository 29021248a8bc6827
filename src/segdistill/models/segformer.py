"""SegFormer, Xie et al. 2021, https://arxiv.org/abs/2105.15203, as transformers builds it (the extra `hf`)."""

from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segdistill import parts
from segdistill.mistakes import Mistake
from segdistill.models import IMAGENET_MEAN, IMAGENET_STD, Model
from segdistill.models._blocks import crop
from segdistill.models._files import fill
from segdistill.types import Stage

Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5"]
SMALLEST = 32
"""Pixels a side: less, and the attention of the first stage, at stride 32, has no keys."""


class _Config(NamedTuple):
    """What table 6 of the paper says of a variant; all others are the same for all."""

    hidden_sizes: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    decoder_hidden_size: int


VARIANTS: dict[Variant, _Config] = {
    "b0": _Config((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": _Config((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": _Config((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": _Config((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": _Config((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": _Config((64, 128, 320, 512), (3, 6, 40, 3), 768),
}


@final
class Segformer(Model):
    """`enc1…enc4` at strides 4, 8, 16, 32; `decoder`, the fused features, and `logits` at stride 4.

    >>> Segformer("b2", num_classes=19)  # doctest: +SKIP

    Args:
        variant: the size, from b0 (3.8 M parameters) to b5 (84.7 M).
        checkpoint: a folder that `save_pretrained` wrote, or a name on the hub; safetensors only. Default: random.
        checkpoint_part: `all`, classifier included, whose classes must be the node's; or the `encoder` alone.

    Raises:
        Mistake: the checkpoint is not there, or is of another variant or number of classes.
    """

    initial: ClassVar[tuple[str, ...]] = ("checkpoint", "checkpoint_part")
    brings_weights = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        variant: Variant = "b0",
        checkpoint: str | None = None,
        checkpoint_part: Literal["all", "encoder"] = "all",
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        transformers = parts.optional("transformers", "hf", "segformer")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        config = VARIANTS[variant]
        described = transformers.SegformerConfig(
            hidden_sizes=list(config.hidden_sizes),
            depths=list(config.depths),
            decoder_hidden_size=config.decoder_hidden_size,
            num_labels=num_classes,
        )
        network = transformers.SegformerForSemanticSegmentation(described)
        if checkpoint is not None:
            _fill(network, transformers, variant, checkpoint, checkpoint_part)
        self.brings_weights = checkpoint is not None and checkpoint_part == "all"
        self.encoder = network.segformer
        self.decoder = network.decode_head
        self.classifier = self.decoder.classifier
        self.decoder.classifier = nn.Identity()  # so that the decoder gives its features
        encoder = {f"enc{level}": Stage(size, 2 ** (level + 1)) for level, size in enumerate(config.hidden_sizes, 1)}
        self.stages = {**encoder, "decoder": Stage(config.decoder_hidden_size, 4), "logits": Stage(num_classes, 4)}

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        x = F.pad((image - self.mean) / self.std, [0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height)])
        features = self.encoder(x, output_hidden_states=True).hidden_states
        found: dict[str, Tensor] = {f"enc{level}": value for level, value in enumerate(features, 1)}
        found["decoder"] = self.decoder(features)
        found["logits"] = self.classifier(found["decoder"])
        return {name: crop(value, height, width, self.stages[name].stride) for name, value in found.items()}


def _fill(network: Any, transformers: Any, variant: str, checkpoint: str, part: str) -> None:
    """transformers itself would fill what a checkpoint lacks with noise."""
    where = f"checkpoint: {checkpoint}"
    try:
        theirs, report = transformers.SegformerForSemanticSegmentation.from_pretrained(
            checkpoint, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise Mistake(f"{where}: {' '.join(str(error).split())}") from error
    for key in ("hidden_sizes", "depths", "decoder_hidden_size", "num_attention_heads", "sr_ratios"):
        ours, found = (_plain(vars(each.config)[key]) for each in (network, theirs))
        if ours != found and not (part == "encoder" and key == "decoder_hidden_size"):
            raise Mistake(f"{where}: its {key} are {found}, those of {variant} are {ours}")
    missing = sorted(name for name in report["missing_keys"] if part == "all" or name.startswith("segformer."))
    if missing:
        whole = "" if part == "encoder" else "; with checkpoint_part: encoder, only the encoder is asked for"
        raise Mistake(f"{where}: it lacks {len(missing)} tensors, {missing[0]} among them{whole}")
    if part == "encoder":
        fill(network.segformer, theirs.segformer.state_dict(), where)
    else:
        fill(network, theirs.state_dict(), where)


def _plain(value: object) -> object:
    """A default is a tuple, what a file says is a list."""
    return list(value) if isinstance(value, tuple) else value
