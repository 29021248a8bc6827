"""A model's answer to one whole image, at that image's size."""

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
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise Mistake(f"predict: expected a uint8 tensor [3, H, W], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[-2:]
    device = next(model.parameters()).device
    seen = as_float(image.to(device)[None])
    if size is not None and size != (height, width):
        seen = F.interpolate(seen, size, mode="bilinear", antialias=True).clamp(0, 1)
    logits = model(seen)["logits"].float()
    if logits.shape[-2:] != (height, width):
        logits = F.interpolate(logits, (height, width), mode="bilinear")
    return logits[0]
