"""From a dataset to batches: caching, augmentation, order. Every random choice is a function of (seed, epoch, index).

The order of samples and what happens to them depend neither on workers nor on ranks nor on when a run was interrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import NamedTuple, TypeVar, final

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import AugmentSpec, DataSpec
from segdistill.types import IGNORE, Batch, ClassTable, Sample

T = TypeVar("T")
Place = tuple[int, int]
"""(epoch, index): which pass over the data, and which sample."""


class Crop(NamedTuple):
    """One augmented sample."""

    image: Tensor
    labels: Tensor
    pad: Tensor
    key: str


@final
class Cached(Dataset):
    """A dataset decoded once and kept in memory; workers forked later share it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.classes: ClassTable = dataset.classes
        self.samples = _all(dataset.__getitem__, len(dataset), "decoding")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


def count_pixels(dataset: Dataset) -> list[int]:
    """Labelled pixels per class over all samples; reading them finds a bad label file before training does."""
    maps = _all(lambda index: _histogram(dataset.labels(index)), len(dataset), "reading labels")
    counts = np.sum(maps, 0) if maps else np.zeros(256, np.int64)
    return [int(count) for count in counts[: len(dataset.classes.names)]]


def _histogram(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=256)


def _all(read: Callable[[int], T], count: int, what: str) -> list[T]:
    """Every item, in order, read by as many threads as there are cores."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(watched(pool.map(read, range(count)), what, count))


def watched(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    """The items, with a bar on a terminal's stderr while they come; stdout stays the caller's."""
    console = Console(stderr=True)
    return track(items, what, count, transient=True, console=console, disable=not console.is_terminal)


@final
class Order(Sampler[list[Place]]):
    """The batches of one rank from step `start` on, without end: every epoch a permutation drawn by (seed, epoch).

    A global batch is `batch` consecutive places; rank r of n takes every n-th of them, so the ranks together see what
    one process would.
    """

    def __init__(self, length: int, batch: int, seed: int, *, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.start, self.rank, self.ranks = start, rank, ranks
        self.epoch = -1
        self.permutation = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start
        while True:
            first = step * self.batch
            yield [self.place(position) for position in range(first + self.rank, first + self.batch, self.ranks)]
            step += 1

    def place(self, position: int) -> Place:
        epoch, offset = divmod(position, self.length)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return epoch, int(self.permutation[offset])


@final
class Augmented(TorchDataset["Crop | Mistake"]):
    """(epoch, index) -> a random crop of that sample; a bad file's sentence travels as a value out of a worker."""

    def __init__(self, dataset: Dataset, spec: DataSpec, crop: tuple[int, int], seed: int) -> None:
        self.dataset, self.spec, self.crop, self.seed = dataset, spec, crop, seed

    def __getitem__(self, place: Place) -> Crop | Mistake:
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        try:
            return augment(self.dataset[index], self.spec.size, self.crop, self.spec.augment, random)
        except Mistake as mistake:
            return mistake


def augment(
    sample: Sample, size: tuple[int, int] | None, crop: tuple[int, int], spec: AugmentSpec, random: np.random.Generator
) -> Crop:
    """Scale, crop, flip and jitter; the image is resized only where the crop lies. Padding is marked."""
    height, width = sample.labels.shape
    base = size or (height, width)
    scale = float(np.exp(random.uniform(*np.log(spec.scale))))
    scaled = (max(1, round(base[0] * scale)), max(1, round(base[1] * scale)))
    seen = (min(crop[0], scaled[0]), min(crop[1], scaled[1]))
    top, left = (int(random.integers(0, whole - part + 1)) for whole, part in zip(scaled, seen, strict=True))
    down, right = (int(random.integers(0, whole - part + 1)) for whole, part in zip(crop, seen, strict=True))
    y, x = height / scaled[0], width / scaled[1]
    box = (left * x, top * y, (left + seen[1]) * x, (top + seen[0]) * y)
    pixels = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    part = np.asarray(pixels.resize((seen[1], seen[0]), Image.Resampling.BILINEAR, box))
    truth = Image.fromarray(sample.labels.numpy()).resize((seen[1], seen[0]), Image.Resampling.NEAREST, box)
    flip = bool(random.integers(2)) and spec.flip
    part = jitter(part, spec.jitter, random)

    image = np.zeros((*crop, 3), np.uint8)
    labels = np.full(crop, IGNORE, np.uint8)
    pad = np.ones(crop, bool)
    window = (slice(down, down + seen[0]), slice(right, right + seen[1]))
    image[window], labels[window], pad[window] = part, np.asarray(truth), False
    mirror = slice(None, None, -1 if flip else 1)
    return Crop(
        torch.from_numpy(image[:, mirror].transpose(2, 0, 1).copy()),
        torch.from_numpy(labels[:, mirror].copy()),
        torch.from_numpy(pad[:, mirror].copy()),
        sample.key,
    )


def jitter(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast and saturation, each by a factor in 1 ± strength; uint8 [H, W, 3]."""
    brightness, contrast, saturation = random.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    if strength == 0:
        return image
    x = image.astype(np.float32) * brightness
    mean = x.mean()
    x = (x - mean) * contrast + mean
    grey = x @ np.asarray((0.299, 0.587, 0.114), np.float32)
    x = (x - grey[..., None]) * saturation + grey[..., None]
    return x.clip(0, 255).round().astype(np.uint8)


def collate(items: Sequence[Crop | Mistake]) -> Batch | Mistake:
    for item in items:
        if isinstance(item, Mistake):
            return item
    crops = [item for item in items if not isinstance(item, Mistake)]
    return Batch(
        torch.stack([crop.image for crop in crops]),
        torch.stack([crop.labels for crop in crops]).long(),
        torch.stack([crop.pad for crop in crops]),
        tuple(crop.key for crop in crops),
    )


def training_batches(
    dataset: Dataset, spec: DataSpec, seed: int, *, start: int, batch: int, rank: int, ranks: int, pin: bool = False
) -> Iterator[Batch]:
    """Batches without end, from batch number `start` on; `batch` images over all ranks.

    Raises:
        Mistake: a sample cannot be read.
    """
    order = Order(len(dataset), batch, seed, start=start, rank=rank, ranks=ranks)
    feed = Augmented(dataset, spec, crop_size(dataset, spec), seed)
    loader = DataLoader(feed, batch_sampler=order, num_workers=spec.workers, collate_fn=collate, pin_memory=pin)
    return _raising(iter(loader))


def _raising(items: Iterator[Batch | Mistake]) -> Iterator[Batch]:
    for item in items:
        if isinstance(item, Mistake):
            raise item
        yield item


def crop_size(dataset: Dataset, spec: DataSpec) -> tuple[int, int]:
    """The training crop: as the recipe says, else the network's input size, else the first image's."""
    if spec.crop or spec.size:
        return spec.crop or spec.size or (0, 0)
    height, width = dataset[0].labels.shape
    return height, width


def as_float(image: Tensor) -> Tensor:
    """uint8 [b, 3, H, W] -> [0, 1], channels last (the faster layout of convolutions on CPU and GPU)."""
    return image.float().div(255).contiguous(memory_format=torch.channels_last)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the models are; a copy from pinned memory does not wait."""
    image, labels, pad = (tensor.to(device, non_blocking=True) for tensor in (batch.image, batch.labels, batch.pad))
    return Batch(image, labels, pad, batch.keys)
