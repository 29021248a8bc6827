"""What to set in a recipe, and the numbers that say so."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segdistill.types import Table


class Advice(NamedTuple):
    """A key of a recipe, and what to set it to, because of which numbers."""

    key: str
    sentence: str


RARE = 0.01
"""Share of the pixels below which a class is called rare."""
SELDOM = 0.5
"""Share of the images below which a class is called seldom seen."""
BACKGROUND = 50
"""A class most of whose pixels lie in objects that need more per cent of the image than this is background."""
FAR = 0.05
"""Total variation between splits that is worth a word."""
WHOLE = 0.9
"""Share of their pixels that a crop should show in whole objects."""
SMALL = 4.0
"""Pixels: objects smaller than this at the network's input are hardly seen by it."""
RARE_CLASS_TEMPERATURE = 0.01
"""`rare_class` prefers a class by exp((1 − share) / temperature), Hoyer et al. 2022, at its default."""


def class_weights(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Formula -> weight [K] by class; NaN for a class without pixels. From [images, K + 1], void last.

    As in the losses: inverse frequency with mean 1; SegNet's median frequency, whose frequencies count the labelled
    pixels of images that have the class; ENet's 1 / ln(1.02 + f); ERFNet's 1 / ln(1.10 + f); Cui et al.'s effective
    number (https://arxiv.org/abs/1901.05555) of pixels with β = 1 − 1 / (a class's mean pixels), with mean 1.
    """
    counts = pixels[:, :-1].astype(np.float64)
    totals, there = counts.sum(0), counts > 0
    share = np.where(totals > 0, totals / max(1.0, totals.sum()), np.nan)
    with_it = (there * counts.sum(1, keepdims=True)).sum(0)
    frequency = np.where(totals > 0, totals / np.maximum(1, with_it), np.nan)
    inverse = 1 / share
    scale = max(1.0, totals.sum()) / len(totals)
    effective = 1 / -np.expm1(np.log1p(-1 / max(2.0, scale)) * np.where(totals > 0, totals, np.nan))
    known = max(1, int((totals > 0).sum()))
    return {
        "inverse": inverse / (np.nansum(inverse) / known),
        "median_frequency": _median(frequency) / frequency,
        "enet": 1 / np.log(1.02 + share),
        "erfnet": 1 / np.log(1.10 + share),
        "effective_number": effective / (np.nansum(effective) / known),
    }


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else 0.0


def chances(pixels: np.ndarray) -> np.ndarray:
    """float64 [K]: how often `rare_class` looks for each class; 0 for one that is not there."""
    counts = pixels[:, :-1].sum(0, dtype=np.float64)
    share = counts / max(1.0, counts.sum())
    odds = np.exp((share[counts > 0].min(initial=1.0) - share) / RARE_CLASS_TEMPERATURE) * (counts > 0)
    return odds / max(odds.sum(), np.finfo(np.float64).tiny)


def is_background(needed_pixels: np.ndarray) -> np.ndarray:
    """bool [K]: classes most of whose pixels lie in objects about as large as the image."""
    return 2 * needed_pixels[:, BACKGROUND + 1 :].sum(1) > needed_pixels.sum(1)


def held(needed: np.ndarray) -> np.ndarray:
    """float64 [K, 101]: the share of objects, or of their pixels, that a window of so many per cent holds."""
    sums = needed.cumsum(1).astype(np.float64)
    return sums / np.where(sums[:, -1:] > 0, sums[:, -1:], np.nan)


def quantile(histogram: np.ndarray, share: float) -> int | None:
    """The smallest value that at least this share of the counted ones do not exceed; None when nothing was counted."""
    sums = histogram.cumsum()
    return int(np.searchsorted(sums, share * sums[-1])) if sums[-1] else None


def percent(share: float) -> str:
    """`31.2 %`, `0.04 %`, with a space that does not break."""
    points = 100 * share
    said = f"{points:.0f}" if points in (0, 1, 100) else f"{points:.1f}" if abs(points) >= 0.95 else f"{points:.2g}"
    return f"{said}\N{NO-BREAK SPACE}%"


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b and 3 more`."""
    if len(names) <= most:
        return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def on_weights(names: Sequence[str], pixels: np.ndarray) -> Iterator[Advice]:
    """Class weights, when the most frequent class has more than ten times the rarest one's pixels."""
    totals = {name: int(pixels[:, k].sum(dtype=np.int64)) for k, name in enumerate(names)}
    known = sorted((count, name) for name, count in totals.items() if count)
    if len(known) < 2:
        return
    (fewest, least), (most_pixels, most) = known[0], known[-1]
    times = f"{most} has {most_pixels / fewest:,.0f} times {least}’s pixels"
    if most_pixels < 10 * fewest:
        yield Advice("class_weights", f"not needed: {times}.")
        return
    spans = {name: np.nanmax(w) / np.nanmin(w) for name, w in class_weights(pixels).items()}
    said = ", ".join(f"{name} {span:,.0f}" for name, span in spans.items())
    yield Advice(
        "class_weights",
        f"erfnet or enet: {times}. The largest weight over the smallest is with {said}; the bounded formulas do not let"
        " a few pixels rule the gradient.",
    )


def on_sampling(names: Sequence[str], pixels: np.ndarray) -> Iterator[Advice]:
    """Sampling, when a class is rare and most images do not have it."""
    totals = pixels[:, :-1].sum(0, dtype=np.float64)
    share, images = (values.tolist() for values in (totals / max(1.0, totals.sum()), (pixels[:, :-1] > 0).mean(0)))
    rare = sorted((share[k], images[k], name) for k, name in enumerate(names) if 0 < share[k] < RARE)
    seldom = [
        f"{name} ({percent(pixels_)} of the pixels, in {percent(seen)} of the images)"
        for pixels_, seen, name in rare
        if seen < SELDOM
    ]
    if seldom:
        yield Advice("sampling", f"{{kind: rare_class}}: seldom seen are {listed(seldom)}.")
    elif rare:
        yield Advice(
            "sampling",
            f"uniform will do: {listed([name for _, _, name in rare])} have below {percent(RARE)} of the pixels each,"
            f" but every one is in {percent(min(seen for _, seen, _ in rare))} of the images or more.",
        )
    else:
        yield Advice("sampling", f"uniform will do: no class that occurs has less than {percent(RARE)} of the pixels.")


def on_crop(names: Sequence[str], needed_pixels: np.ndarray, crop: int | None) -> Iterator[Advice]:
    """The smallest window that holds the objects in which nine tenths of the countable classes' pixels lie."""
    share = held(needed_pixels)
    countable = [k for k in range(len(names)) if needed_pixels[k].any() and not is_background(needed_pixels)[k]]
    if not countable:
        return
    mean = share[countable].mean(0).tolist()
    wanted = next(step for step in range(5, 101, 5) if mean[step] >= WHOLE)
    sentence = (
        f"at least {wanted} % of the image’s height and width: of {listed([names[k] for k in countable])},"
        f" {percent(mean[wanted])} of the pixels (mean over these classes) lie in objects that fit into it whole."
    )
    if crop is not None:
        lowest, name = min((float(share[k, crop]), names[k]) for k in countable)
        sentence += f" The recipe’s crop is {crop} %: {percent(mean[crop])}, of {name} {percent(lowest)}."
    yield Advice("crop", sentence)


def on_resolution(medians: Mapping[str, float]) -> Iterator[Advice]:
    """The network's input size, when half of a class's pixels lie in objects of a few pixels there."""
    small = sorted((side, name) for name, side in medians.items() if side < SMALL)
    if small:
        said = listed([f"{name}’s below {side:.1f}" for side, name in small])
        yield Advice(
            "size",
            f"larger, if it can be: at the network’s input half of a class’s pixels lie in objects of fewer than"
            f" {SMALL:.0f} pixels a side; half of {said}.",
        )


def on_absent(names: Sequence[str], pixels: Mapping[str, np.ndarray]) -> Iterator[Advice]:
    """Classes without a pixel in a split; the first split is the training split."""
    there: dict[str, list[bool]] = {split: (counts[:, :-1] > 0).max(0).tolist() for split, counts in pixels.items()}
    train, *others = there
    missing = [name for name, seen in zip(names, there[train], strict=True) if not seen]
    if missing:
        yield Advice("classes", f"never in {train}, so that nothing can be learnt of them: {listed(missing)}.")
    for other in others:
        missing = [n for n, learnt, seen in zip(names, there[train], there[other], strict=True) if learnt and not seen]
        if missing:
            yield Advice("validate_on", f"never in {other}, so that their IoU is 0 or left out: {listed(missing)}.")


def on_shift(found: Table, train: str, other: str, distance: float) -> Iterator[Advice]:
    """What `other` has more and less of than `train`, where that is no accident of the images."""
    rows = [(str(name), [float(cell or 0) for cell in cells]) for name, *cells in found.rows]
    sure = sorted((row for row in rows if row[1][3] > 0 or row[1][4] < 0), key=lambda row: -abs(row[1][2]))
    if sure and distance > FAR:
        most = ", ".join(f"{name} {percent(one)} → {percent(two)}" for name, (one, two, *_) in sure[:4])
        yield Advice(
            "validate_on",
            f"{other} differs from {train}: {percent(distance)} of its labelled pixels would have to change class to"
            f" match. Most: {most} (95 % intervals of the differences without 0).",
        )


def on_duplicates(share: float, itself: float, bits: int, train: str, other: str) -> Iterator[Advice]:
    """Splits that share scenes: the share of `other` with a near-duplicate in `train`, and in itself."""
    near = f"(at most {bits} of 64 bits of their hashes differ)"
    if share > 0.01:
        yield Advice(
            "hold_out",
            f"whole sequences: {percent(share)} of the images of {other} have a near-duplicate in {train} {near}, which"
            f" makes {other} easier than new roads are.",
        )
    if itself > 0.5:
        yield Advice(
            "validate_on",
            f"more varied images: {percent(itself)} of the images of {other} have a near-duplicate among themselves"
            f" {near}; they count for fewer than they are.",
        )
