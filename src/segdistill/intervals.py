"""The mean of a few numbers and how far it can be trusted."""

import math
import statistics
from collections.abc import Sequence

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a two-sided 95 % interval by degrees of freedom, from 1; past the last one it is taken for that."""


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval by Student's t; None for a single number."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, None
    t = T95[min(len(differences) - 1, len(T95)) - 1]
    return mean, t * statistics.stdev(differences) / math.sqrt(len(differences))
