"""The confusion matrix of a whole split, and what follows from it: IoU, accuracy, mIoU, frequency-weighted IoU.

As the official Cityscapes evaluation (mcordts/cityscapesScripts): one int64 matrix over all images; pixels without a
label count nowhere; classes absent from both labels and prediction are left out of the mean; their `iou` is NaN. A
labelled pixel that is called nothing, as only files can, is missed.
"""

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from segdistill.metrics import Metric
from segdistill.types import IGNORE

ROWS = 32
"""Of logits that are looked at together: their planes stay in the processor's cache."""


@final
class Confusion(Metric):
    """`counts[k, l]`: pixels of class k that were called l; `unanswered[k]`: that were called nothing."""

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.unanswered = torch.zeros(num_classes, dtype=torch.int64)

    def update(self, logits: Float[Tensor, "b k H W"], labels: Integer[Tensor, "b H W"]) -> None:
        self.add(called(logits), labels)

    def add(self, predicted: Integer[Tensor, "b H W"], labels: Integer[Tensor, "b H W"]) -> None:
        """Count class maps, the quickest where both are uint8."""
        k = self.num_classes
        # Void is a row far below the matrix, so that nothing is indexed by a mask; keys of 16 bits are half the time.
        kind = torch.int16 if k * (IGNORE + 1) <= 2**15 else torch.int32
        key = torch.add(predicted.to(kind), labels.to(kind), alpha=k).flatten()
        self.counts += torch.bincount(key, minlength=k * k)[: k * k].view(k, k).to(self.counts.device)

    def add_pairs(self, pairs: Int64[Tensor, "256 256"]) -> None:
        """Count what was counted already: pixels by their label and by what they were called, IGNORE for nothing."""
        k = self.num_classes
        self.counts += pairs[:k, :k]
        self.unanswered += pairs[:k, IGNORE]

    def margins(self) -> Int64[Tensor, "3 k"]:
        """Pixels of each class: hits, labels, predictions; IoU is hits / (labels + predictions - hits)."""
        return torch.stack([self.counts.diagonal(), self.counts.sum(1) + self.unanswered, self.counts.sum(0)])

    def __add__(self, other: Metric) -> "Confusion":
        assert isinstance(other, Confusion)
        total = Confusion(num_classes=self.num_classes)
        total.counts = self.counts + other.counts
        total.unanswered = self.unanswered + other.unanswered
        return total

    def result(self) -> Mapping[str, float | list[float]]:
        """Fractions in [0, 1]; per class NaN where a class is in neither labels nor predictions."""
        hits, truth, said = self.margins().double()
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


def called(logits: Float[Tensor, "b k H W"]) -> Integer[Tensor, "b H W"]:
    """The class of the largest logit, the first of equal ones."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32 or logits.stride(1) == 1 or logits.shape[1] > 256:
        return logits.max(1).indices
    # Class by class: torch's own reduction over planes takes five times as long.
    planes = logits.detach().numpy()
    found = np.zeros((len(planes), *planes.shape[2:]), np.uint8)
    for top in range(0, planes.shape[2], ROWS):
        part, name = planes[:, :, top : top + ROWS], found[:, top : top + ROWS]
        largest = part[:, 0].copy()
        for k in range(1, part.shape[1]):
            larger = np.greater(part[:, k], largest)
            np.maximum(name, larger.view(np.uint8) * np.uint8(k), out=name)
            np.maximum(largest, part[:, k], out=largest)
    return torch.from_numpy(found)
