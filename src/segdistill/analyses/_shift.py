"""How far two splits' class shares lie apart, with intervals."""

import numpy as np

CHUNK = 50
"""Resamples made at once."""


def shares(pixels: np.ndarray) -> np.ndarray:
    """float64 [K]: each class's share of the labelled pixels, from [images, K + 1] (void last)."""
    counts = pixels[:, :-1].sum(0, dtype=np.float64)
    return counts / max(1.0, float(counts.sum()))


def interval(
    first: np.ndarray, second: np.ndarray, resamples: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval [K], [K] of share(second) − share(first).

    Images are drawn with replacement, each split by itself, as often as it has labelled images. Neighbouring frames of
    a video are taken for independent, which makes it too narrow for them.
    """
    drawn = _resampled(second, resamples, random) - _resampled(first, resamples, random)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return low, high


def _resampled(pixels: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """float64 [resamples, K]."""
    labelled = pixels[:, :-1].astype(np.float64)
    labelled = labelled[labelled.sum(1) > 0]
    images = len(labelled)
    drawn: list[np.ndarray] = []
    for begin in range(0, resamples, CHUNK):
        times = random.multinomial(images, np.full(images, 1 / images), min(CHUNK, resamples - begin))
        sums = times @ labelled
        drawn.append(sums / sums.sum(1, keepdims=True))
    return np.concatenate(drawn)
