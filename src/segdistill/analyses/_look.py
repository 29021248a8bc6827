"""What one image and its labels tell, in whole numbers that add up over images.

Labels are read as runs: stretches of one value within a row. A street scene of two million pixels has some ten thousand
of them, so that counting and joining runs costs a tenth of labelling every class's mask (the same objects).
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.types import IGNORE, Sample

GRID = (32, 64)
"""Cells of a map of where a class is, down and across, whatever the image measures."""
LONGEST = 4096
"""Objects' sides are counted up to here, in pixels."""


class Objects(NamedTuple):
    """The connected pieces of each class (pixels that touch at a side or a corner); void is none."""

    classes: np.ndarray
    pixels: np.ndarray
    needed: np.ndarray
    """Per cent of the image's height and width that a window must have to hold the whole piece, rounded up."""


class Look(NamedTuple):
    """One image. K classes; the place after the last class is void's."""

    key: str
    shape: tuple[int, int]
    pixels: np.ndarray
    """int64 [K + 1]."""
    cells: np.ndarray
    """int64 [K + 1, *GRID]: pixels by place."""
    near: np.ndarray
    """int64 [K]: pixels near a pixel of another value."""
    objects: Objects
    channels: np.ndarray
    """int64 [3, 256]: histograms of red, green and blue."""
    luminance: np.ndarray
    """int64 [256]: histogram of 0.299 red + 0.587 green + 0.114 blue."""
    hash: int
    """64 bits that hardly change when the picture hardly does."""


def look(sample: Sample, classes: int, boundary: float) -> Look:
    """Count one sample. `boundary`: how far "near" reaches, as a share of the image's diagonal."""
    labels = sample.labels.numpy()
    height, width = labels.shape
    distance = max(1, round(boundary * math.hypot(height, width)))
    channels, luminance, digest = _light(sample.image.numpy())
    cells = _cells(labels, classes)
    return Look(
        key=sample.key,
        shape=(height, width),
        pixels=cells.sum((1, 2)),
        cells=cells,
        near=_places(np.bincount(labels[near_change(labels, distance)], minlength=256), classes)[:classes],
        objects=objects(labels),
        channels=channels,
        luminance=luminance,
        hash=digest,
    )


def near_change(labels: np.ndarray, distance: int) -> np.ndarray:
    """bool [H, W]: whether the square of 2·distance + 1 pixels around a pixel holds more than its own value.

    Void counts as a value, the border of the image does not.
    """
    low, high = labels, labels
    for axis in (0, 1):
        low = _windowed(low, distance, axis, largest=False)
        high = _windowed(high, distance, axis, largest=True)
    return low != high


def _windowed(values: np.ndarray, distance: int, axis: int, largest: bool) -> np.ndarray:
    """The smallest or largest of 2·distance + 1 neighbours: windows of 1, 2, 4 … pixels, then two that overlap."""
    pick = np.maximum if largest else np.minimum
    padding = [(0, 0), (0, 0)]
    padding[axis] = (distance, distance)
    window = np.pad(values, padding, mode="edge").swapaxes(0, axis)
    width, wanted = 1, 2 * distance + 1
    while width < wanted:
        step = min(width, wanted - width)
        window = pick(window[: len(window) - step], window[step:])
        width += step
    return window.swapaxes(0, axis)


def objects(labels: np.ndarray) -> Objects:
    """Every connected piece of every class."""
    height, width = labels.shape
    change = np.ones((height, width), bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=change[:, 1:])
    start = np.flatnonzero(change)
    value, length = labels.ravel()[start], np.diff(start, append=height * width)
    piece = _joined(len(start), *_touching(start, value, width, height * width))
    row, left = start // width, start % width
    right, bottom, leftmost = left + length - 1, row.copy(), left.copy()
    rightmost = right.copy()
    np.maximum.at(bottom, piece, row)
    np.minimum.at(leftmost, piece, left)
    np.maximum.at(rightmost, piece, right)
    # A piece is named by its first run, which lies in its top row.
    named = np.flatnonzero((piece == np.arange(len(start))) & (value != IGNORE))
    tall, wide = (bottom - row)[named] + 1, (rightmost - leftmost)[named] + 1
    pixels = np.bincount(piece, weights=length, minlength=len(start)).astype(np.int64)
    needed = np.maximum(-(-100 * tall // height), -(-100 * wide // width))
    return Objects(value[named], pixels[named], needed)


def _touching(start: np.ndarray, value: np.ndarray, width: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs of one value in neighbouring rows that touch: each run asks above and below its first pixel."""
    first, second = [], []
    for step in (-width, -width - 1, width, width - 1):
        asked = start + step
        inside = (asked >= 0) & (asked < end)
        if step in (-width - 1, width - 1):
            inside &= start % width > 0
        here = np.flatnonzero(inside)
        there = np.searchsorted(start, asked[here], "right") - 1
        same = value[here] == value[there]
        first.append(here[same])
        second.append(there[same])
    return np.concatenate(first), np.concatenate(second)


def _joined(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest member of each one's group, when first[i] and second[i] are of one group for every i."""
    head = np.arange(count)
    while len(first):
        np.minimum.at(head, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(head, further := head[head]):
            head = further
        first, second = head[first], head[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return head


def _cells(labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [K + 1, *GRID]."""
    (height, width), (down, across) = labels.shape, GRID
    column = np.arange(width) * across // width
    change = np.ones((height, width), bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=change[:, 1:])
    change[:, 1:] |= column[1:] != column[:-1]
    start = np.flatnonzero(change)
    cell = start // width * down // height * across + column[start % width]
    place = cell * 256 + labels.ravel()[start]
    counted = np.bincount(place, weights=np.diff(start, append=height * width), minlength=down * across * 256)
    return _places(counted.astype(np.int64).reshape(down * across, 256).T, classes).reshape(-1, down, across)


def _places(by_value: np.ndarray, classes: int) -> np.ndarray:
    """[256, …] by label value -> [K + 1, …], void last."""
    return np.concatenate([by_value[:classes], by_value[IGNORE:]])


def _light(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Histograms of the channels and of the luminance, and the difference hash; uint8 [3, H, W]."""
    bands = [Image.fromarray(band) for band in image]
    grey = Image.merge("RGB", bands).convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    bits = small[:, 1:] > small[:, :-1]
    digest = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return np.array([band.histogram() for band in bands]), np.array(grey.histogram()), digest
