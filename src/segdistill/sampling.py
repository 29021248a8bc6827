"""Which images an epoch shows more often, and where they are cropped, so that rare classes are seen.

`rare_class` is RCS of DAFormer, Hoyer et al. 2022, https://arxiv.org/abs/2111.14887, section 3.2; there every crop is
drawn so and an image has to hold 3000 pixels of the class, here a share of both. `class_uniform` is Zhu et al. 2019,
https://arxiv.org/abs/1812.01593, section 3.2; there a crop holds the class's centroid in a tile of 1024 pixels, which
may lie beside the class, here it holds a random pixel of the class.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import ClassUniformSpec, RareClassSpec
from segdistill.run import cache_folder, write_json

RETRIES = 10
"""Further crops of `rare_class` when one shows too little of its class."""


class Drawn(NamedTuple):
    """A sample shown for the sake of a class: its index in the data set, and the class."""

    sample: int
    label: int


@final
class Sampling:
    """The samples of every epoch that are drawn for a class.

    Args:
        counts: pixels per image and class, and of void in the last column: [images, K + 1].

    Raises:
        Mistake: no image has a label.
    """

    def __init__(self, spec: RareClassSpec | ClassUniformSpec, counts: np.ndarray) -> None:
        self.spec = spec
        self.length = len(counts)
        pixels = counts[:, :-1].sum(0, dtype=np.int64)
        self.present = pixels.nonzero()[0]
        if not len(self.present):
            raise Mistake(f"data.sampling: {spec.kind} looks for classes, but no training image has a label")
        rare = spec if isinstance(spec, RareClassSpec) else None
        self.probabilities = class_probabilities(pixels, rare.temperature) if rare else None
        wanted = counts.sum(1, dtype=np.int64) * (rare.min_share if rare else 0)
        holders = [_holders(column, wanted) for column in counts[:, :-1].T]
        self.holders = np.concatenate(holders)
        """Class after class, the images to draw from."""
        self.numbers = np.array([len(images) for images in holders])
        self.starts = self.numbers.cumsum() - self.numbers

    def drawn(self, seed: int, epoch: int) -> dict[int, Drawn]:
        """By the place in the epoch, from 0; the other places keep what the uniform order has there."""
        length = round(self.spec.share * self.length)
        random = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
        places = random.permutation(self.length)[:length]
        if self.probabilities is not None:
            labels = random.choice(len(self.numbers), length, p=self.probabilities)
        else:  # every class equally often; lots decide about what does not divide
            labels = np.resize(random.permutation(self.present), length)
        images = self.holders[self.starts[labels] + random.integers(0, self.numbers[labels])]
        drawn = map(Drawn, images.tolist(), labels.tolist())
        return dict(zip(places.tolist(), drawn, strict=True))


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """P(c) ∝ exp((1 - f_c) / temperature) with f_c of the labelled pixels, over the classes that occur; [K] -> [K]."""
    present = pixels > 0
    shares = pixels[present] / pixels.sum()
    weights = np.zeros(len(pixels))
    weights[present] = np.exp((shares.min() - shares) / temperature)  # the rarest's is 1: nothing overflows
    return weights / weights.sum()


def _holders(pixels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The images with so many pixels of a class, or with any where none has so many; int32."""
    enough = (pixels > 0) & (pixels >= wanted)
    return (enough if enough.any() else pixels > 0).nonzero()[0].astype(np.int32)


def corner(
    spec: RareClassSpec | ClassUniformSpec,
    labels: np.ndarray,
    label: int,
    scaled: tuple[int, int],
    seen: tuple[int, int],
    random: np.random.Generator,
) -> tuple[int, int]:
    """Top and left of a crop for a class.

    Args:
        labels: uint8 [H, W] of the whole image, in which the class occurs.
        scaled: height and width that the image is resized to; the corner is counted in its pixels.
        seen: height and width of the crop, at most `scaled`.
    """
    shown = labels == label
    if isinstance(spec, ClassUniformSpec):
        pixels = np.flatnonzero(shown)
        at = np.unravel_index(pixels[random.integers(len(pixels))], shown.shape)
        y, x = (
            _holding((int(where) + 0.5) * whole / size, whole, part, random)
            for where, size, whole, part in zip(at, shown.shape, scaled, seen, strict=True)
        )
        return y, x
    # Half of what the image had to hold, counted in its own pixels: the scale of a crop does not matter.
    wanted = min(spec.min_share * shown.size, np.count_nonzero(shown)) / 2
    top = left = 0
    for _ in range(1 + RETRIES):
        top, left = (int(random.integers(0, whole - part + 1)) for whole, part in zip(scaled, seen, strict=True))
        rows, columns = (
            slice(round(begin * size / whole), round((begin + part) * size / whole))
            for begin, part, size, whole in zip((top, left), seen, shown.shape, scaled, strict=True)
        )
        if np.count_nonzero(shown[rows, columns]) > wanted:
            break
    return top, left


def _holding(point: float, whole: int, part: int, random: np.random.Generator) -> int:
    """Where `part` of `whole` begins so that the point lies in it."""
    low, high = max(0, int(point) + 1 - part), min(whole - part, int(point))
    return int(random.integers(low, high + 1))


def remembered(dataset: Dataset, count: Callable[[], np.ndarray]) -> np.ndarray:
    """uint32 [images, K + 1] as counted before for data of the same fingerprint, or counted now and written down."""
    shape = len(dataset), len(dataset.classes.names) + 1
    file = cache_folder() / "class-pixels" / f"{dataset.fingerprint()}.json"
    known = _read(file)
    if known is not None and known.shape == shape:
        return known
    counts = count()
    assert counts.shape == shape and counts.dtype == np.uint32
    with suppress(OSError):  # a full disk, or a home that may not be written: then it is counted again
        write_json(file, {"rows": [" ".join(map(str, row)) for row in counts.tolist()]})
    return counts


def _read(file: Path) -> np.ndarray | None:
    """The counts in a file; None where it is absent or damaged."""
    try:
        rows = json.loads(file.read_text())["rows"]
        return np.array([row.split() for row in rows], np.uint32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
