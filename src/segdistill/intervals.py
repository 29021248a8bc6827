"""The mean of a few numbers, a ratio of two means, and how far they can be trusted.

A gain that several seeds measured on the same images is uncertain in two ways: other seeds would have given another,
and so would other images. The seeds' margin is Student's t of so few numbers; the images' is normal, and its variance
comes from a bootstrap (`gains`). Independent margins add as their squares do, t² s²/n + z² v, which is never less than
Cochran's approximation to the problem of Behrens and Fisher (1964, Biometrics 20:191), and is either margin where the
other is nothing. What images do to each seed alone is already in the spread of the seeds and counts twice: at n = 3 the
interval is up to a tenth wider for it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

ERROR = 0.05
"""How often an interval may miss, and how often a study may call something decided that is nothing but chance."""
NORMAL = statistics.NormalDist()


def interval(values: Sequence[float], images: float = 0.0, error: float = ERROR) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval; None for a single number.

    Args:
        images: variance of the mean that the choice of images makes.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    seeds = student(error, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, math.hypot(seeds, normal(error) * math.sqrt(images))


def chance(values: Sequence[float], images: float = 0.0) -> float:
    """How often chance alone brings a mean so far from 0: the error at which the interval just reaches it.

    1 for a single number, and for zeros.
    """
    if len(values) < 2 or not any(values):
        return 1.0
    mean, seeds = abs(statistics.fmean(values)), statistics.stdev(values) / math.sqrt(len(values))
    low, high = -9.0, 9.0  # of t, as powers of ten
    for _ in range(36):
        t = 10 ** ((low + high) / 2)
        error = max(1e-15, 1 - _within(t, len(values) - 1))
        reached = math.hypot(t * seeds, normal(error) * math.sqrt(images)) > mean
        low, high = (low, math.log10(t)) if reached else (math.log10(t), high)
    return max(1e-15, 1 - _within(10**high, len(values) - 1))


def holm(chances: Mapping[str, float], error: float = ERROR) -> set[str]:
    """Those that are no chance, so that in at most 5 % of the cases any of them is: Holm 1979, Scand. J. Stat. 6:65."""
    found: set[str] = set()
    for name in sorted(chances, key=chances.__getitem__):
        if chances[name] > error / (len(chances) - len(found)):
            break
        found.add(name)
    return found


class Ratio(NamedTuple):
    value: float
    low: float
    high: float


def ratio(
    tops: Sequence[float],
    bottoms: Sequence[float],
    images: tuple[float, float, float] = (0.0, 0.0, 0.0),
    error: float = ERROR,
) -> Ratio | None:
    """mean(tops) / mean(bottoms), paired, with its 95 % interval; None where mean(bottoms) may be 0 or less.

    Fieller 1954 (J. R. Stat. Soc. B 16:175): the ratios r for which the interval of mean(top - r bottom) holds 0.

    Args:
        images: variance of mean(tops), of mean(bottoms), and their covariance, that the choice of images makes.
    """
    if len(tops) < 2:
        return None
    top, bottom = statistics.fmean(tops), statistics.fmean(bottoms)
    seeds = student(error, len(tops) - 1) ** 2 / len(tops)
    pairs = ((tops, tops), (bottoms, bottoms), (tops, bottoms))
    a, b, c = (
        seeds * statistics.covariance(one, other) + normal(error) ** 2 * image
        for (one, other), image in zip(pairs, images, strict=True)
    )
    leading = bottom**2 - b
    if bottom <= 0 or leading <= 0:
        return None
    middle = (top * bottom - c) / leading
    half = math.sqrt(max(0.0, middle**2 - (top**2 - a) / leading))
    return Ratio(top / bottom, middle - half, middle + half)


@cache
def student(error: float, freedom: int) -> float:
    """What |t| exceeds so often: Student's t for a two-sided interval."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < 1 - error:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 1 - error else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """How often |T| < t: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    cosine = math.cos(angle)
    term, total = cosine if odd else 1.0, 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def normal(error: float) -> float:
    """The same of a number without unknown spread."""
    return -NORMAL.inv_cdf(error / 2)
