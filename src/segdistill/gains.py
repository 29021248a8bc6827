"""What an arm gains over another, paired by seed and by image, and which of many gains are more than luck.

Other images of the same kind: images are drawn with replacement (Efron 1979, Ann. Stat. 7:1), their counts of pixels
added up, and IoU is of the sums, never a mean of images' own. Every network gets the same draws.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Integer

from segdistill.intervals import ERROR, Ratio, chance, holm, interval, normal, ratio, student

DRAWS = 1000

Draws = Float[np.ndarray, "draws"]


def draw(images: int, draws: int = DRAWS) -> Float[np.ndarray, "draws images"]:
    """How often each image is drawn; the same every time."""
    return np.random.default_rng(0).multinomial(images, [1 / images] * images, draws).astype(np.float64)


def class_ious(
    counts: Integer[np.ndarray, "images 3 k"], drawn: Float[np.ndarray, "draws images"]
) -> Float[np.ndarray, "draws k"]:
    """IoU of every class in every draw; NaN where a class is in neither labels nor predictions.

    Args:
        counts: of each image and class the pixels that are hits, labels, predictions.
    """
    hits, truth, said = (drawn @ counts[:, kind].astype(np.float64) for kind in range(3))
    union = truth + said - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(ious: Float[np.ndarray, "draws k"]) -> Draws:
    """Over the classes that are there, as `Confusion.result`; NaN where none is."""
    there = ~np.isnan(ious)
    total = np.where(there, ious, 0).sum(1)
    return np.divide(total, there.sum(1), out=np.full_like(total, np.nan), where=there.any(1))


@final
@dataclass(frozen=True)
class Scores:
    """A number by seed, and what it is in each draw of images; no images: that is not known."""

    by_seed: Mapping[int, float]
    draws: Mapping[int, Draws] = field(default_factory=dict[int, Draws])
    images: int = 0

    def __sub__(self, other: "Scores") -> "Scores":
        """The differences of the seeds that both have."""
        seeds = [seed for seed in self.by_seed if seed in other.by_seed]
        values = {seed: self.by_seed[seed] - other.by_seed[seed] for seed in seeds}
        if not self.images or self.images != other.images:
            return Scores(values)
        return Scores(values, {seed: self.draws[seed] - other.draws[seed] for seed in seeds}, self.images)

    def same_for(self, seeds: Iterable[int]) -> "Scores":
        """Those of a single network, beside several seeds of others."""
        (own,) = self.by_seed
        draws = dict.fromkeys(seeds, self.draws[own]) if self.images else {}
        return Scores(dict.fromkeys(seeds, self.by_seed[own]), draws, self.images)

    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    def interval(self) -> tuple[float, float | None]:
        """The mean, and half of its 95 % interval."""
        return interval(list(self.by_seed.values()), self.covariance(self))

    def chance(self) -> float:
        """How often chance alone brings the mean so far from 0."""
        return chance(list(self.by_seed.values()), self.covariance(self))

    def over(self, other: "Scores") -> Ratio | None:
        """The ratio of the means with its 95 % interval, over the same seeds; None where it cannot be said."""
        images = self.covariance(self), other.covariance(other), self.covariance(other)
        return ratio(list(self.by_seed.values()), list(other.by_seed.values()), images)

    def covariance(self, other: "Scores") -> float:
        """Of the means, by the choice of images.

        A draw's spread is (n - 1) / n of what n other images make, and n images know it as Student's t does.
        """
        n = min(self.images, other.images)
        means = np.array([np.mean(list(each.draws.values()), axis=0) for each in (self, other) if n > 1])
        known = means[:, np.isfinite(means).all(0)]  # a rare class is not in every draw
        if known.shape[-1] < 2:
            return 0.0
        wider = student(ERROR, n - 1) / normal(ERROR)
        return float(np.cov(known)[0, 1]) * n / (n - 1) * wider**2


class Verdict(NamedTuple):
    better: list[str]
    worse: list[str]
    undecided: list[str]
    best: str | None
    """Of all, the baseline as well; None: not decided."""


def verdict(arms: Mapping[str, Scores], baseline: str, error: float = ERROR) -> Verdict:
    """Who differs from the baseline, and who is best: where all are alike, somebody in at most 5 % of the cases.

    Differences from the baseline are decided by Holm over all arms. The best is the one of the largest mean, where that
    sets it apart from the baseline (the baseline: from all others), and each of the others alone is behind it by more
    than chance; that needs no correction for their number (Gutmann and Maymin 1987, Ann. Stat. 15:456).
    """
    gains = {name: scores - arms[baseline] for name, scores in arms.items() if name != baseline}
    decided = holm({name: gain.chance() for name, gain in gains.items()}, error)
    ahead = {name: gain.mean() > 0 for name, gain in gains.items()}
    better = [name for name in gains if name in decided and ahead[name]]
    worse = [name for name in gains if name in decided and not ahead[name]]
    undecided = [name for name in gains if name not in decided]
    top = max(arms, key=lambda name: arms[name].mean())
    apart = top in better if top != baseline else len(worse) == len(gains)
    alone = apart and all((arms[top] - arms[name]).chance() <= error for name in arms if name != top)
    return Verdict(better, worse, undecided, top if alone and gains else None)
