"""The sums over a split: their size does not depend on how many images there are, but for some hundred bytes an image.

A split is read in order by as many threads as there are cores; what has been counted is saved from time to time under
the split's fingerprint, so that a second call goes on where the first one was stopped, with the same sums.
"""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdistill.analyses._look import GRID, LONGEST, Look, look
from segdistill.analyses._partial import read_arrays, write_arrays
from segdistill.datasets import Dataset

VERSION = 1
"""Of what is counted; saved sums of another version are not used."""
SAVE_SECONDS = 20.0
PER_IMAGE = ("pixels", "light", "hashes", "shapes")
"""Arrays with a row for each image; the others are sums."""


@final
@dataclass
class Tally:
    """What is kept of a split's first `seen` images. K classes; the place after the last class is void's."""

    pixels: np.ndarray
    """uint32 [images, K + 1], for intervals over images."""
    light: np.ndarray
    """float64 [images, 2]: mean and standard deviation of each image's luminance, 0…255."""
    hashes: np.ndarray
    """uint64 [images]."""
    shapes: np.ndarray
    """uint16 [images, 2]: height and width."""
    cells: np.ndarray
    """int64 [K + 1, *GRID]: pixels by place."""
    near: np.ndarray
    """int64 [K]: pixels near another value."""
    sides: np.ndarray
    """int64 [K, LONGEST]: objects by the whole part of the square root of their pixels."""
    side_pixels: np.ndarray
    """int64 [K, LONGEST]: the same, counting their pixels."""
    needed_pixels: np.ndarray
    """int64 [K, 101]: pixels by the per cent of the image that a window must have to hold their object."""
    channels: np.ndarray
    """int64 [3, 256]: histograms of red, green and blue."""
    keys: list[str] = field(default_factory=list[str])
    seen: int = 0

    def add(self, seen: Look) -> None:
        """The next image."""
        here = self.seen
        self.keys.append(seen.key)
        self.pixels[here] = seen.pixels
        self.light[here] = moments(seen.luminance)
        self.hashes[here] = seen.hash
        self.shapes[here] = seen.shape
        self.cells += seen.cells
        self.near += seen.near
        self.channels += seen.channels
        classes, pixels, needed = seen.objects
        side = np.sqrt(pixels).astype(np.int64).clip(max=LONGEST - 1)
        np.add.at(self.sides, (classes, side), 1)
        np.add.at(self.side_pixels, (classes, side), pixels)
        np.add.at(self.needed_pixels, (classes, needed), pixels)
        self.seen += 1

    def __add__(self, other: "Tally") -> "Tally":
        """Both splits as one."""
        mine, its = self.arrays(), other.arrays()
        both = {name: np.concatenate([mine[name], its[name]]) if name in PER_IMAGE else mine[name] + its[name]
                for name in mine}  # fmt: skip
        return Tally(**both, keys=[*self.keys, *other.keys], seen=self.seen + other.seen)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def save(self, file: Path) -> None:
        write_arrays(file, {"keys": np.array(self.keys, np.str_), "seen": np.array(self.seen), **self.arrays()})


def nothing(images: int, classes: int) -> Tally:
    """Room for so many images."""
    return Tally(
        pixels=np.zeros((images, classes + 1), np.uint32),
        light=np.zeros((images, 2)),
        hashes=np.zeros(images, np.uint64),
        shapes=np.zeros((images, 2), np.uint16),
        cells=np.zeros((classes + 1, *GRID), np.int64),
        near=np.zeros(classes, np.int64),
        sides=np.zeros((classes, LONGEST), np.int64),
        side_pixels=np.zeros((classes, LONGEST), np.int64),
        needed_pixels=np.zeros((classes, 101), np.int64),
        channels=np.zeros((3, 256), np.int64),
    )


def load(file: Path) -> Tally:
    """What `Tally.save` wrote."""
    arrays = read_arrays(file, {"keys", "seen", *nothing(0, 0).arrays()})
    return Tally(seen=int(arrays.pop("seen")), keys=arrays.pop("keys").tolist(), **arrays)


def moments(histogram: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the values 0…255 that a histogram counts."""
    values, count = np.arange(256), max(1, int(histogram.sum()))
    mean = float(histogram @ values) / count
    return mean, float(max(0.0, float(histogram @ values**2) / count - mean**2)) ** 0.5


def tally(name: str, dataset: Dataset, boundary: float, folder: Path | None) -> Tally:
    """Count a split, going on from what `folder` holds of it.

    Raises:
        Mistake: a sample cannot be read; what was counted before it is saved.
        KeyboardInterrupt: the same.
    """
    classes = len(dataset.classes.names)
    facts = repr((VERSION, dataset.fingerprint(), len(dataset), dataset.classes.names, boundary))
    file = folder / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz" if folder else None
    sums = load(file) if file and file.exists() else nothing(len(dataset), classes)
    first = sums.seen
    begin = saved = time.monotonic()
    if first == len(dataset):
        return sums
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=len(dataset), completed=first, rate="")
        looks = _in_order(dataset, first, classes, boundary)
        try:
            for seen in looks:
                sums.add(seen)
                rate = (sums.seen - first) / (time.monotonic() - begin)
                bar.update(task, completed=sums.seen, rate=f"{rate:.1f} images/s")
                if file and time.monotonic() - saved > SAVE_SECONDS:
                    sums.save(file)
                    saved = time.monotonic()
        finally:
            looks.close()  # no thread reads on
            if file:
                sums.save(file)
    seconds = time.monotonic() - begin
    start = f" (going on after {first:,})" if first else ""
    read = sums.seen - first
    print(f"{name}: {read:,} images{start} in {seconds:.1f} s, {read / seconds:.1f} images/s", file=sys.stderr)
    return sums


def _in_order(dataset: Dataset, first: int, classes: int, boundary: float) -> Generator[Look]:
    """A look at every image from `first` on, by as many threads as there are cores; few wait to be fetched."""

    def read(place: int) -> Look:
        return look(dataset[place], classes, boundary)

    threads = os.cpu_count() or 1
    waiting: deque[Future[Look]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for index in range(first, len(dataset)):
            waiting.append(pool.submit(read, index))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
