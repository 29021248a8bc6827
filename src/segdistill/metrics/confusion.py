"""The confusion matrix of a whole split, and what follows from it: IoU, accuracy, mIoU, frequency-weighted IoU.

As the official Cityscapes evaluation (mcordts/cityscapesScripts): one int64 matrix over all images; pixels without a
label count nowhere; classes absent from both labels and prediction are left out of the mean; their `iou` is NaN.
"""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segdistill.metrics import Metric
from segdistill.types import IGNORE


@final
class Confusion(Metric):
    """`counts[k, l]`: pixels of class k that were called l."""

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, logits: Float[Tensor, "b k H W"], labels: Int64[Tensor, "b H W"]) -> None:
        self.add(logits.max(1).indices, labels)

    def add(self, predicted: Int64[Tensor, "b H W"], labels: Int64[Tensor, "b H W"]) -> None:
        """Count class maps."""
        k = self.num_classes
        # Void falls into one bin past the matrix, so that nothing is indexed by a mask.
        cell = torch.where(labels == IGNORE, k * k, labels * k + predicted)
        counts = torch.bincount(cell.flatten(), minlength=k * k + 1)
        self.counts += counts[: k * k].view(k, k).to(self.counts.device)

    def __add__(self, other: Metric) -> "Confusion":
        assert isinstance(other, Confusion)
        total = Confusion(num_classes=self.num_classes)
        total.counts = self.counts + other.counts
        return total

    def result(self) -> Mapping[str, float | list[float]]:
        """Fractions in [0, 1]; per class NaN where a class is in neither labels nor predictions."""
        counts = self.counts.double()
        hits, truth, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou = hits / (truth + said - hits)
        present = ~iou.isnan()
        share = truth / truth.sum()
        return {
            "mean_iou": iou[present].mean().item(),
            "frequency_weighted_iou": (share[present] * iou[present]).sum().item(),
            "pixel_accuracy": (hits.sum() / truth.sum()).item(),
            "iou": iou.tolist(),
            "accuracy": (hits / truth).tolist(),
            "frequency": share.tolist(),
        }
