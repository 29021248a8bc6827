"""The words of the house: small tuples that every floor speaks in.

Shape legend: b images, k classes, c channels, H W image, h w stage.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

IGNORE = 255
"""The label of a pixel that has no class (void)."""

Colour = tuple[int, int, int]
Cell = str | int | float | None


class ClassTable(NamedTuple):
    """The classes of a data set; the position of a name is its train id."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def palette(self) -> np.ndarray:
        """uint8 [256, 3]: the colour of every label value; void and unused values are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colours)] = self.colours
        return table


class Sample(NamedTuple):
    """One image with its labels, as a dataset reads it."""

    image: UInt8[Tensor, "3 H W"]
    labels: UInt8[Tensor, "H W"]
    key: str


class Shown(NamedTuple):
    """Which part of which samples the crops of a batch show; on the CPU, wherever the batch is.

    A pixel p of a crop lies at factor · p + offset of the image as a network sees it without augmentation; both are
    counted from the top left border, so that the middle of a pixel is at a half.
    """

    sample: Int64[Tensor, "b"]
    """Its index in the training split; frames follow it."""
    checksum: Int64[Tensor, "b"]
    """Of the sample's image (`data.checksum`)."""
    axes: Float32[Tensor, "b 2 2"]
    """[y or x, factor or offset]; a mirrored crop has a negative factor of x."""


class Batch(NamedTuple):
    """What one process trains on in one step. `pad` marks pixels invented by cropping past the border."""

    image: UInt8[Tensor, "b 3 H W"]
    labels: Int64[Tensor, "b H W"]
    pad: Bool[Tensor, "b H W"]
    keys: Sequence[str]
    bad: Mapping[str, str] = {}
    """Keys of samples that could not be read, and why; others took their places."""
    shown: Shown | None = None
    """Where the crops come from; the loader knows it."""


class Stage(NamedTuple):
    """What a model promises of one of its outputs: channels, and image pixels per output pixel."""

    channels: int
    stride: int


class Step(NamedTuple):
    """What a system answers to a batch: the weighted sum of its edges, and each edge's own value."""

    loss: Tensor
    losses: Mapping[str, Tensor]


class Table(NamedTuple):
    """Named columns over rows; `rows[i][0]` usually names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Picture(NamedTuple):
    """An image to look at, and, when it is a photograph with class maps on it, those maps (uint8 [H, W])."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    masks: Mapping[str, np.ndarray] = {}
    photograph: np.ndarray | None = None
    """uint8 [H, W, 3], what the masks lie on; needed when there are masks."""


class Findings(NamedTuple):
    """What a probe or an analysis found: numbers, pictures and tables by name."""

    numbers: Mapping[str, float] = {}
    images: Mapping[str, Picture] = {}
    tables: Mapping[str, Table] = {}
