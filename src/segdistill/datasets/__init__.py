"""The shelf of datasets: one file reads one kind of data set; this page is what they have in common.

A dataset's constructor takes what a recipe may say, then keyword-only `split`. It lists its files at once, so a missing
folder, an orphan and an empty split are mistakes before anything is decoded; a bad file is one when it is read.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.types import IGNORE, ClassTable, Sample


class Dataset(ABC):
    """Images with labels: `len(dataset)`, `dataset[i]`, and the classes that the labels name."""

    classes: ClassTable

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the samples do."""

    def labels(self, index: int) -> np.ndarray:
        """uint8 [H, W] train ids of one sample, after every check that needs no decoded image."""
        return self[index].labels.numpy()


class Pair(NamedTuple):
    """An image file, the label file that belongs to it (none: all void), and the name of both."""

    image: Path
    labels: Path | None
    key: str
