"""Boundary IoU: Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562: IoU of what lies near the masks' contours.

Of each class the pixels of the label's mask that are at most d pixels from its outside, and the same of the predicted
mask; d is a share of the image's diagonal. The image's border is outside (the authors pad with zeros), and so is void,
for labels and for predictions. We add up pixels over all images, as for IoU; the paper averages over objects.
"""

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from segdistill.metrics import Metric
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


@final
class Boundary(Metric):
    """`mean_boundary_iou` over the classes that are in labels or predictions, and `boundary_iou` of each.

    Args:
        ratio: d as a share of the diagonal; at least one pixel. The authors take 0.005 for Cityscapes (11 pixels at
            1024 x 2048) and 0.02 for smaller pictures with large objects.
    """

    def __init__(self, ratio: float = 0.005, *, num_classes: int) -> None:
        if not 0 < ratio < 0.5:
            raise Mistake(f"ratio: expected 0 < share of the diagonal < 0.5, got {ratio}")
        self.ratio, self.num_classes = ratio, num_classes
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64)
        """Near a contour, pixels of each class: hits, labels, predictions."""

    def update(self, logits: Float[Tensor, "b k H W"], labels: Integer[Tensor, "b H W"]) -> None:
        self.add(logits.max(1).indices, labels)

    def add(self, predicted: Integer[Tensor, "b H W"], labels: Integer[Tensor, "b H W"]) -> None:
        """Count class maps."""
        void = labels == IGNORE
        truth, said = labels.long(), predicted.long().masked_fill(void, IGNORE)
        reach = max(1, round(self.ratio * (labels.shape[-2] ** 2 + labels.shape[-1] ** 2) ** 0.5))
        truly, near = ((contour(each, reach) & ~void) for each in (truth, said))
        hits = truth[truly & near & (truth == said)]
        for place, found in enumerate((hits, truth[truly], said[near])):
            self.counts[place] += torch.bincount(found, minlength=self.num_classes).cpu()

    def __add__(self, other: Metric) -> "Boundary":
        assert isinstance(other, Boundary) and other.ratio == self.ratio
        total = Boundary(self.ratio, num_classes=self.num_classes)
        total.counts = self.counts + other.counts
        return total

    def result(self) -> Mapping[str, float | list[float]]:
        """Fractions in [0, 1]; NaN where a class is in neither labels nor predictions."""
        hits, truth, said = self.counts.double()
        iou = hits / (truth + said - hits)
        return {"mean_boundary_iou": iou[~iou.isnan()].mean().item(), "boundary_iou": iou.tolist()}


def contour(classes: Int64[Tensor, "b H W"], reach: int) -> Bool[Tensor, "b H W"]:
    """Whether the square of `reach` pixels around a pixel holds another class, void, or a place off the image.

    For every class at once that is its mask less the mask eroded `reach` times by 3 x 3.
    """
    padded = F.pad(classes.float(), (reach,) * 4, value=-1.0)[:, None]
    return (_largest(padded, reach) != -_largest(-padded, reach))[:, 0]


def _largest(values: Float[Tensor, "b 1 y x"], reach: int) -> Float[Tensor, "b 1 h w"]:
    """In every square of 2 reach + 1 pixels a side, along one axis after the other."""
    side = 2 * reach + 1
    return F.max_pool2d(F.max_pool2d(values, (side, 1), 1), (1, side), 1)
