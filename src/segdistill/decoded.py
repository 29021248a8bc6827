"""Images decoded ahead of time: by a few threads while others are at work, or once for all into a file on the disk.

The file is uint8 and mapped into memory, so that workers and runs share it, a crop touches only its rows, and a set
that does not fit into memory is read as fast as the disk. It lies in the folder of what can be computed again.
"""

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import numpy as np
import torch

from segdistill.data import watched
from segdistill.datasets import Dataset, FileDataset
from segdistill.mistakes import Mistake
from segdistill.run import Unwritten, alone, read_json, sync_folder, write_json, writing
from segdistill.sampling import cache_folder
from segdistill.types import ClassTable, Sample

T = TypeVar("T")
FORMAT = 1
"""Of the files; those of another are made anew."""
PIXELS, MANIFEST = "pixels", "manifest.json"
"""The files of a decoded set; the manifest is written last."""


def ahead(read: Callable[[int], T], indices: Iterable[int], threads: int | None = None) -> Iterator[T | Mistake]:
    """`read(index)` of every index in order, or why it cannot be; threads are at most two each ahead of the caller.

    Args:
        threads: how many; default: as many as there are cores.
    """

    def tried(index: int) -> T | Mistake:
        try:
            return read(index)
        except Mistake as mistake:
            return mistake

    count = threads or cpu_count() or 1
    waiting: deque[Future[T | Mistake]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(tried, index))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


@final
class Ahead(Dataset):
    """A dataset whose samples are asked for in the order of `indices`, each once, and decoded before that."""

    def __init__(self, dataset: Dataset, indices: Iterable[int], threads: int | None = None) -> None:
        self.dataset, self.classes = dataset, dataset.classes
        self.samples = ahead(dataset.__getitem__, indices, threads)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = next(self.samples)
        if isinstance(sample, Mistake):
            raise sample
        return sample

    def key(self, index: int) -> str:
        return self.dataset.key(index)

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


class Place(NamedTuple):
    """Where a sample stands in the file: its labels [H, W], then its image [3, H, W]."""

    key: str
    start: int
    height: int
    width: int

    @property
    def labels(self) -> slice:
        return slice(self.start, self.start + self.height * self.width)

    @property
    def image(self) -> slice:
        return slice(self.labels.stop, self.labels.stop + 3 * self.height * self.width)


@final
class Decoded(Dataset):
    """A dataset decoded once for all runs; what cannot be read is tried again when it is opened.

    Its file is named by the data's fingerprint and made anew when an image is newer than it was then.

    Raises:
        Unwritten: the disk is full, or the folder may not be written.
    """

    def __init__(self, dataset: Dataset, what: str = "data") -> None:
        self.dataset = dataset
        self.classes: ClassTable = dataset.classes
        folder = cache_folder() / "decoded" / dataset.fingerprint()
        with alone(folder.with_name(f"{folder.name}.lock"), f"decodes {what}"):
            found = _opened(folder, dataset)
            if found is None:
                _build(folder, dataset, what)
                found = _opened(folder, dataset)
            assert found is not None
            self.places: Sequence[Place | Mistake] = found
            # Copied on write: nobody writes, and torch wants what it is given to be writable.
            self.pixels = np.memmap(folder / PIXELS, np.uint8, "c") if _size(found) else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        place = self.places[index]
        if isinstance(place, Mistake):
            raise Mistake(str(place))
        image = np.asarray(self.pixels[place.image].reshape(3, place.height, place.width))
        return Sample(torch.from_numpy(image), torch.from_numpy(self.labels(index)), place.key)

    def labels(self, index: int) -> np.ndarray:
        place = self.places[index]
        if isinstance(place, Mistake):
            raise Mistake(str(place))
        return np.asarray(self.pixels[place.labels].reshape(place.height, place.width))

    def key(self, index: int) -> str:
        return self.dataset.key(index)

    def only(self, indices: Sequence[int]) -> "Decoded":
        fewer = copy(self)
        fewer.dataset, fewer.places = self.dataset.only(indices), [self.places[index] for index in indices]
        return fewer

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


def _size(places: Iterable[Place | Mistake]) -> int:
    return max((place.image.stop for place in places if isinstance(place, Place)), default=0)


def _opened(folder: Path, dataset: Dataset) -> list[Place | Mistake] | None:
    """Where the samples stand; None where the file is absent, damaged, older than an image, or lacks a readable one."""
    try:
        content = read_json(folder / MANIFEST)
        rows: list[list[Any]] = content["samples"]
        places = [Place(*row) if row else None for row in rows]
        keys_fit = all(place is None or place.key == dataset.key(index) for index, place in enumerate(places))
        same = content["format"] == FORMAT and len(places) == len(dataset) and keys_fit
        known: list[int] = content["image_times"]
        whole = (folder / PIXELS).stat().st_size == content["bytes"] == _size(p for p in places if p is not None)
        if not (same and whole) or any(now > then for now, then in zip(_times(dataset), known, strict=True)):
            return None
    except (Mistake, OSError, KeyError, TypeError, ValueError):
        return None
    found: list[Place | Mistake] = []
    for index, place in enumerate(places):
        if place is None:
            try:
                dataset[index]
                return None
            except Mistake as mistake:
                found.append(mistake)
        else:
            found.append(place)
    return found


def _times(dataset: Dataset) -> list[int]:
    """When each image was last changed, in nanoseconds; of a set that is not made of files, nothing."""
    if not isinstance(dataset, FileDataset):
        return []
    return [_time(pair.image) for pair in dataset.pairs]


def _time(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # whoever reads it says so
        return 0


def _build(folder: Path, dataset: Dataset, what: str) -> None:
    """Decode everything into a folder of another name, which gets its own name when it is complete."""
    torn = folder.with_name(f"{folder.name}.part")
    times = _times(dataset)  # before they are read: a change meanwhile is newer
    samples = ahead(dataset.__getitem__, range(len(dataset)))
    places: list[Place | None] = []
    start = 0
    with writing(folder):
        for old in (torn, folder):
            if old.exists():
                shutil.rmtree(old)
        torn.mkdir()
        try:
            with (torn / PIXELS).open("wb") as file:
                for index, sample in enumerate(watched(samples, "decoding", len(dataset))):
                    if isinstance(sample, Mistake):
                        places.append(None)
                        continue
                    height, width = sample.labels.shape
                    if not start:
                        _announce(folder, what, 4 * height * width * (len(dataset) - index), len(dataset))
                    places.append(Place(sample.key, start, height, width))
                    file.write(sample.labels.numpy().tobytes())
                    file.write(sample.image.numpy().tobytes())
                    start += 4 * height * width
                file.flush()
                os.fsync(file.fileno())
            content = {"format": FORMAT, "bytes": start, "image_times": times, "samples": [p or [] for p in places]}
            write_json(torn / MANIFEST, content)
            torn.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(torn, ignore_errors=True)


def _announce(folder: Path, what: str, size: int, count: int) -> None:
    """Says what will be written, from the size of the first sample.

    Raises:
        Unwritten: there is no room for it.
    """
    print(
        f"segdistill: {what}: decoding {count} samples once into {folder}: about {size / 1e9:.2g} GB", file=sys.stderr
    )
    if size > shutil.disk_usage(folder.parent).free:
        raise Unwritten(folder, f"data.cache: disk needs about {size / 1e6:,.0f} MB")
