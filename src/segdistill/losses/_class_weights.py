"""What the frequencies of the classes say: weights by name, and the prior; shared by the losses with `class_weights`.

With n pixels of a class labelled in the training split, f = n / all labelled pixels, and w the weight:

- inverse: 1 / f, of mean 1;
- median_frequency: median(g) / g with g = n / the labelled pixels of the images that contain the class (Eigen and
  Fergus 2015, https://arxiv.org/abs/1411.4734; SegNet, https://arxiv.org/abs/1511.00561). Void is left out;
- enet: 1 / ln(1.02 + f) (Paszke et al. 2016, https://arxiv.org/abs/1606.02147). Its authors counted void in f;
- erfnet: 1 / ln(1.10 + f) (Romera et al. 2018, in the code of the decoder);
- effective_number: (1 − β) / (1 − βⁿ), of mean 1 (Cui et al. 2019, https://arxiv.org/abs/1901.05555). The paper counts
  images; pixels need a β nearer to 1, here 1 − 1 / (the mean n of a class), which no resolution changes.

A class that never occurs has weight 0 in median_frequency, in enet and erfnet what the formula says, else the largest
weight of those that occur; means are over those that occur. `weight_clip` comes last: no weight is larger.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.mistakes import Mistake

ClassWeights = list[float] | Literal["inverse", "median_frequency", "enet", "erfnet", "effective_number"] | None


def weights_of(
    said: ClassWeights,
    clip: float | None,
    num_classes: int,
    class_pixels: Sequence[int],
    class_image_pixels: Sequence[int],
) -> Float[Tensor, "k"]:
    """One weight per class as a recipe says it; ones for None.

    Raises:
        Mistake: a list of the wrong length or with a negative weight; a clip of what has no formula, or below 0.
    """
    if clip is not None and (clip <= 0 or not isinstance(said, str)):
        raise Mistake(f"weight_clip: expected more than 0, and class_weights by name, got {clip} for {said}")
    if isinstance(said, str):
        assert len(class_pixels) == num_classes
        weights = by_name(said, class_pixels, class_image_pixels)
        return (weights if clip is None else weights.clamp(max=clip)).float()
    weights = torch.ones(num_classes) if said is None else torch.tensor(said)
    if len(weights) != num_classes or bool((weights < 0).any()):
        raise Mistake(
            f"class_weights: expected {num_classes} numbers, none below 0, got {len(weights)}: {weights.tolist()}"
        )
    return weights.float()


def by_name(name: str, class_pixels: Sequence[int], class_image_pixels: Sequence[int]) -> Float[Tensor, "k"]:
    """A formula's weights, float64."""
    pixels = torch.tensor(class_pixels, dtype=torch.float64)
    share = pixels / pixels.sum().clamp(min=1)
    occurs = pixels > 0
    match name:
        case "enet":
            return 1 / torch.log(1.02 + share)
        case "erfnet":
            return 1 / torch.log(1.10 + share)
        case "inverse":
            return _mean_one(1 / share, occurs)
        case "effective_number":
            return effective_number(pixels, float(pixels.mean()))
        case _:
            assert len(class_image_pixels) == len(class_pixels)
            within = pixels / torch.tensor(class_image_pixels, dtype=torch.float64).clamp(min=1)
            median = within[occurs].quantile(0.5) if occurs.any() else torch.tensor(0.0)
            return torch.where(occurs, median / within, 0.0)


def effective_number(pixels: Float[Tensor, "k"], volume: float) -> Float[Tensor, "k"]:
    """Weights of mean 1 for β = 1 − 1 / volume: how many different samples of a class there can be."""
    log_beta = torch.tensor(-1 / max(volume, 2), dtype=torch.float64).log1p()
    return _mean_one(-1 / torch.expm1(pixels * log_beta), pixels > 0)


def log_prior(class_pixels: Sequence[int]) -> Float[Tensor, "k"]:
    """ln of each class's share of the labelled pixels; a class that never occurs counts as one pixel. float64."""
    pixels = torch.tensor(class_pixels, dtype=torch.float64).clamp(min=1)
    return (pixels / pixels.sum()).log()


def _mean_one(weights: Float[Tensor, "k"], occurs: Bool[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Of mean 1 over the classes that occur; the others, infinite before, are as the largest of these."""
    if not occurs.any():
        return torch.ones_like(weights)
    finite = torch.where(occurs, weights, weights[occurs].max())
    return finite / finite[occurs].mean()
