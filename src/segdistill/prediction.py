"""A model's answer to one whole image: logits at that image's size, or every stage."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from segdistill.data import as_float
from segdistill.mistakes import Mistake
from segdistill.models import Model


@torch.no_grad()
def predict(model: Model, image: UInt8[Tensor, "3 H W"], size: tuple[int, int] | None = None) -> Float[Tensor, "k H W"]:
    """Logits of every pixel; the network sees the image at `size` and its logits are enlarged again (never the labels).

    The model is used as it is: call `.eval()` first.

    Raises:
        Mistake: the image is no uint8 tensor [3, H, W].
    """
    logits = answer(model, image, size)["logits"].float()
    height, width = image.shape[-2:]
    if logits.shape[-2:] != (height, width):
        logits = F.interpolate(logits, (height, width), mode="bilinear")
    return logits[0]


@torch.no_grad()
def answer(model: Model, image: UInt8[Tensor, "3 H W"], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Every stage as it is, of one image that the network sees at `size`; otherwise as `predict`."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise Mistake(f"predict: expected a uint8 tensor [3, H, W], got {image.dtype} {list(image.shape)}")
    seen = as_float(image.to(next(model.parameters()).device)[None])
    if size is not None and size != image.shape[-2:]:
        seen = F.interpolate(seen, size, mode="bilinear", antialias=True).clamp(0, 1)
    return model(seen)
