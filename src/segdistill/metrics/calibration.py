"""How far a network's probabilities can be believed: NLL, Brier score, entropy and calibration errors of a whole split.

ECE: Naeini et al. 2015; of networks, by their largest probability: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
Class-wise: Kull et al. 2019, https://arxiv.org/abs/1910.12656, over all classes, those that never occur too. Counts are
added over images, errors are never averaged. Bins are (low, high]; the first has a probability of 0, too.
"""

from collections.abc import Iterator, Mapping
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int32, Int64, Integer
from torch import Tensor

from segdistill.metrics import Metric
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

PIXELS = 1 << 13
"""Looked at together on a CPU, where their probabilities stay in the cache; elsewhere a hundred times as many."""
CELLS, SPAN = 1 << 14, 37.0
"""Confidences p are counted in so many even steps of −ln(1 − p) from 0 to here, where 1 − p is a float64's last bit."""


@final
class Calibration(Metric):
    """Over labelled pixels. `nll` and `entropy` in nats, `brier` in [0, 2], the errors `ece`, `adaptive_ece` (bins of
    equally many pixels) and `classwise_ece` in [0, 1]; for every bin its mean `confidence`, `accuracy` and `share`.

    The bins of the adaptive error are cut out of a fine histogram, of whose cells those that a cut goes through are
    divided evenly: it is wrong by at most twice the share of the pixels that lie in these `bins` − 1 cells. A cell is
    0.23 % of 1 − p wide.
    """

    def __init__(self, bins: int = 15, *, num_classes: int) -> None:
        if bins < 1:
            raise Mistake(f"bins: expected at least 1, got {bins}")
        self.bins, self.num_classes = bins, num_classes
        self.sums = torch.zeros(3, dtype=torch.float64)
        """Of NLL, Brier score and entropy."""
        self.counts = torch.zeros(bins, 2, dtype=torch.int64)
        """By the largest probability: pixels, and how many are right."""
        self.confidence = torch.zeros(bins, dtype=torch.float64)
        """Sums of the largest probability."""
        self.occurs = torch.zeros(num_classes, bins, dtype=torch.int64)
        """By a class's probability: pixels of the class."""
        self.promised = torch.zeros(num_classes, bins, dtype=torch.float64)
        """By a class's probability: its sum."""
        self.cells = torch.zeros(CELLS, dtype=torch.int64)
        """Pixels by the largest probability, finely."""
        self.excess = torch.zeros(CELLS, dtype=torch.float64)
        """There: right pixels less the sum of their probabilities."""

    def update(self, logits: Float[Tensor, "b k H W"], labels: Integer[Tensor, "b H W"]) -> None:
        for some, truth in labelled(logits, labels):
            self._add(some, truth)

    def _add(self, logits: Float64[Tensor, "k n"], labels: Int64[Tensor, " n"]) -> None:
        log_p = logits.log_softmax(0)
        p = log_p.exp()
        own = labels[None]
        nll = -log_p.gather(0, own).sum()
        brier = (p * p).sum() - 2 * p.gather(0, own).sum() + len(labels)
        entropy = -(p * log_p.clamp(min=-1000.0)).sum()  # p of minus infinity is 0, and 0 · −∞ would be NaN
        self.sums += torch.stack([nll, brier, entropy]).cpu()
        confidence, called = p.max(0)
        self._add_confidence(confidence, called == labels)
        of_class = torch.arange(self.num_classes, dtype=torch.int32, device=p.device) * self.bins
        place = self._bin(p) + of_class[:, None]
        shape, size = self.promised.shape, self.promised.numel()
        self.promised += torch.bincount(place.flatten(), p.flatten(), size).view(shape).cpu()
        self.occurs += torch.bincount(place.gather(0, own).flatten(), minlength=size).view(shape).cpu()

    def _add_confidence(self, confidence: Float64[Tensor, " n"], right: Bool[Tensor, " n"]) -> None:
        place = self._bin(confidence)
        everyone = torch.bincount(place, minlength=self.bins)
        self.counts += torch.stack([everyone, torch.bincount(place[right], minlength=self.bins)], 1).cpu()
        self.confidence += torch.bincount(place, confidence, self.bins).cpu()
        fine = (-torch.log1p(-confidence) * (CELLS / SPAN)).clamp(max=CELLS - 1).int().clamp(min=0)
        self.cells += torch.bincount(fine, minlength=CELLS).cpu()
        self.excess += torch.bincount(fine, right.double() - confidence, CELLS).cpu()

    def _bin(self, p: Float64[Tensor, "*any"]) -> Int32[Tensor, "*any"]:
        return (p * self.bins).ceil_().sub_(1).int().clamp_(0, self.bins - 1)  # clamped last: NaN becomes a number

    def __add__(self, other: Metric) -> "Calibration":
        assert isinstance(other, Calibration) and other.bins == self.bins
        total = Calibration(self.bins, num_classes=self.num_classes)
        total.sums = self.sums + other.sums
        total.counts = self.counts + other.counts
        total.confidence = self.confidence + other.confidence
        total.occurs = self.occurs + other.occurs
        total.promised = self.promised + other.promised
        total.cells = self.cells + other.cells
        total.excess = self.excess + other.excess
        return total

    def result(self) -> Mapping[str, float | list[float]]:
        """NaN where there is no pixel, in all or in a bin."""
        count, hits = self.counts.double().unbind(1)
        pixels = count.sum()
        nll, brier, entropy = (self.sums / pixels).tolist()
        return {
            "nll": nll,
            "brier": brier,
            "ece": ((hits - self.confidence).abs().sum() / pixels).item(),
            "adaptive_ece": (self._adaptive() / pixels).item(),
            "classwise_ece": ((self.occurs - self.promised).abs().sum() / pixels / self.num_classes).item(),
            "entropy": entropy,
            "confidence": (self.confidence / count).tolist(),
            "accuracy": (hits / count).tolist(),
            "share": (count / pixels).tolist(),
        }

    def _adaptive(self) -> Float64[Tensor, ""]:
        """Σ over bins of equally many pixels of |right − promised|."""
        pixels, excess = (F.pad(each.cumsum(0), (1, 0)).double() for each in (self.cells, self.excess))
        cuts = torch.linspace(0, float(pixels[-1]), self.bins + 1, dtype=torch.float64)
        cell = torch.searchsorted(pixels, cuts).clamp(1, CELLS)  # the first whose end is not before the cut
        within = ((cuts - pixels[cell - 1]) / (pixels[cell] - pixels[cell - 1])).nan_to_num(0.0)
        return torch.lerp(excess[cell - 1], excess[cell], within).diff().abs().sum()


def labelled(
    logits: Float[Tensor, "b k H W"], labels: Integer[Tensor, "b H W"]
) -> Iterator[tuple[Float64[Tensor, "k n"], Int64[Tensor, " n"]]]:
    """The pixels that have a label, some rows of an image at a time."""
    most = PIXELS if logits.device.type == "cpu" else 100 * PIXELS
    rows = max(1, most // logits.shape[-1])
    for image, truth in zip(logits.detach(), labels, strict=True):
        for top in range(0, len(truth), rows):
            part = truth[top : top + rows].flatten()
            known = part != IGNORE
            yield image[:, top : top + rows].flatten(1)[:, known].double(), part[known].long()
