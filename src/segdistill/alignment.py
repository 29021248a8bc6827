"""How alike the features of two stages are: linear CKA, exact, streamed over the pixels of many images.

Kornblith et al. 2019, https://arxiv.org/abs/1905.00414: ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred features, a row an
example. Where we differ: an example is a pixel of a grid, not an image, so that examples of one image are correlated
and their number says less than it seems; stages of unlike strides meet on the coarser one's grid, by average pooling.
No debiasing: pixels are far more than channels. Where they are not, `by_chance` tells what the bias is: the mean CKA
over all ways to shuffle one side's pixels, exactly. The sums are float64, C × C' a pair and C × C a stage and grid: 8
MB for 1024 channels, whatever the number of pixels.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.types import Stage

PIXELS = 1 << 12
"""Taken together; float64 copies of all channels that meet on a grid are held for so many."""
CHANNELS = 64
"""Pooled together."""
FLAT = 1e-26
"""Of the squared mean: a variance that is no more is rounding. One pixel in 10⁸ that differs by float32's last bit has
4e-23."""


class End(NamedTuple):
    """A stage of a network."""

    network: str
    stage: str


Pair = tuple[End, End]
Key = tuple[End, End, int]
"""Two stages and the stride of the grid that they meet on."""


@final
@dataclass(frozen=True)
class Comoment:
    """Sums over n examples that are merged by +: Chan, Golub and LeVeque 1979, stable wherever the means are."""

    count: int
    x: Tensor
    """[p], the mean."""
    y: Tensor
    """[q], the mean."""
    second: Tensor
    """[p, q]: Σ (x − mean)(y − mean)ᵀ."""

    def __add__(self, other: "Comoment") -> "Comoment":
        count = self.count + other.count
        across, down = other.x - self.x, other.y - self.y
        share = other.count / count
        second = self.second + other.second + torch.outer(across, down) * (self.count * share)
        return Comoment(count, self.x + across * share, self.y + down * share, second)

    @property
    def is_flat(self) -> bool:
        """Of a stage with itself: whether it says the same at every example."""
        return float(self.second.trace()) <= FLAT * self.count * float(self.x.square().sum())


def cka(cross: Comoment, one: Comoment, other: Comoment) -> float | None:
    """From the co-moments of two stages, and each one's with itself; None where either is constant or not finite."""
    if one.is_flat or other.is_flat:
        return None
    scale = float(torch.linalg.matrix_norm(one.second)) * float(torch.linalg.matrix_norm(other.second))
    found = float(cross.second.square().sum()) / scale
    return min(1.0, found) if math.isfinite(found) else None


def by_chance(one: Comoment, other: Comoment) -> float | None:
    """The mean of `cka` when the examples of one side are shuffled: tr(XXᵀ) tr(YYᵀ) / ((n − 1) ‖XᵀX‖_F ‖YᵀY‖_F).

    Shuffled pixels are independent, real ones are not: two networks that have nothing in common reach more than that.
    None as in `cka`.
    """
    if one.is_flat or other.is_flat:
        return None
    own = [float(each.second.trace()) / float(torch.linalg.matrix_norm(each.second)) for each in (one, other)]
    found = own[0] * own[1] / (one.count - 1)
    return found if math.isfinite(found) else None


@final
class Alignments:
    """CKA of many pairs of stages at once; each image is given once, with what every network says of it.

    >>> found = Alignments([(End("a", "logits"), End("b", "logits"))], {"a": a.stages, "b": b.stages})  # doctest: +SKIP
    >>> found.update({"a": a(image), "b": b(image)})  # doctest: +SKIP

    Args:
        pairs: which stages of which networks.
        stages: of every network that is named there.
    """

    def __init__(self, pairs: Iterable[Pair], stages: Mapping[str, Mapping[str, Stage]]) -> None:
        self.stages = stages
        self.strides = {
            End(network, stage): said.stride for network, theirs in stages.items() for stage, said in theirs.items()
        }
        self.pairs = list(dict.fromkeys(pairs))
        self.grids: dict[int, dict[Pair, None]] = {}
        """Which co-moments are summed on the grid of each stride; also those of stages with themselves."""
        for one, other in self.pairs:
            wanted = self.grids.setdefault(self._grid((one, other)), {})
            wanted |= dict.fromkeys(((one, other), (one, one), (other, other)))
        self.sums: dict[Key, Comoment] = {}
        """Of nothing that was seen there is none."""

    @torch.no_grad()
    def update(self, said: Mapping[str, Mapping[str, Tensor]]) -> None:
        """More images: {network: {stage: [B, C, h, w]}}, all of one size, the stages as the strides promise."""
        sums = dict(self.sums)
        for stride, wanted in self.grids.items():
            ends = {end: said[end.network][end.stage] for pair in wanted for end in pair}
            size = next(features.shape[-2:] for end, features in ends.items() if self.strides[end] == stride)
            rows = {end: _rows(features, self.strides[end], stride, size) for end, features in ends.items()}
            for here in _chunks(rows):
                for one, other in wanted:
                    (x, apart), (y, away) = here[one], here[other]
                    found = Comoment(len(apart), x, y, apart.T @ away)
                    key = (one, other, stride)
                    sums[key] = sums[key] + found if key in sums else found
        self.sums = sums  # replaced, so that an interrupt leaves them whole

    def __add__(self, other: "Alignments") -> "Alignments":
        both = Alignments(self.pairs, self.stages)
        both.sums = {**self.sums, **other.sums}
        both.sums |= {key: self.sums[key] + other.sums[key] for key in self.sums.keys() & other.sums.keys()}
        return both

    def cka(self, one: End, other: End) -> float | None:
        """None where a stage is constant or not finite, and before two pixels were seen."""
        found = self._found(one, other)
        return cka(*found) if found and found[0].count > 1 else None

    def by_chance(self, one: End, other: End) -> float | None:
        """What shuffled pixels would give: near 0 where pixels are far more than channels. None as in `cka`."""
        found = self._found(one, other)
        return by_chance(*found[1:]) if found and found[0].count > 1 else None

    def examples(self, one: End, other: End) -> int:
        """Pixels of the grid that the two meet on, of all images."""
        found = self._found(one, other)
        return found[0].count if found else 0

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` takes."""
        found: dict[str, np.ndarray] = {}
        for place, key in enumerate(self._keys()):
            if key in self.sums:
                one = self.sums[key]
                parts = (np.array(one.count), *(each.cpu().numpy() for each in (one.x, one.y, one.second)))
                found |= {f"{place}/{part}": value for part, value in enumerate(parts)}
        return found

    def restore(self, state: Mapping[str, np.ndarray], device: str) -> None:
        """Of the same pairs."""
        self.sums = {}
        for place, key in enumerate(self._keys()):
            if f"{place}/0" in state:
                x, y, second = (torch.from_numpy(state[f"{place}/{part}"]).to(device) for part in (1, 2, 3))
                self.sums[key] = Comoment(int(state[f"{place}/0"]), x, y, second)

    def _grid(self, pair: Pair) -> int:
        return max(self.strides[end] for end in pair)

    def _keys(self) -> Iterator[Key]:
        for stride, wanted in self.grids.items():
            for one, other in wanted:
                yield one, other, stride

    def _found(self, one: End, other: End) -> tuple[Comoment, Comoment, Comoment] | None:
        stride = self._grid((one, other))
        keys = ((one, other, stride), (one, one, stride), (other, other, stride))
        first, second, third = (self.sums.get(key) for key in keys)
        return (first, second, third) if first and second and third else None


def _rows(features: Tensor, own: int, stride: int, size: tuple[int, ...]) -> Tensor:
    """[B, C, h, w] at a stride -> [n, C] at a coarser one of this size; a cell is the mean of what lies in it.

    Pooled in float64, so that what is constant stays so also in cells that the border cuts.
    """
    if own != stride:
        parts: list[Tensor] = []
        for part in features.split(CHANNELS, 1):
            wide = part.double()
            if stride % own:  # cells overlap where one stride is no multiple of the other
                pooled = F.adaptive_avg_pool2d(wide, (size[0], size[1]))
            else:
                pooled = F.avg_pool2d(wide, stride // own, ceil_mode=True)
            parts.append(pooled.to(features.dtype))
        features = torch.cat(parts, 1)
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _chunks(rows: Mapping[End, Tensor]) -> Iterator[Mapping[End, tuple[Tensor, Tensor]]]:
    """Of every stage the mean of some examples, and how they differ from it, in float64."""
    count = len(next(iter(rows.values())))
    assert all(len(each) == count for each in rows.values()), "stages as large as their strides promise"
    for begin in range(0, count, PIXELS):
        here = {end: each[begin : begin + PIXELS].double() for end, each in rows.items()}
        means = {end: each.mean(0) for end, each in here.items()}
        yield {end: (means[end], each - means[end]) for end, each in here.items()}
