"""From a dataset to batches: caching, augmentation, order. Every random choice is a function of (seed, epoch, index).

The order of samples and what happens to them depend neither on workers nor on ranks nor on when a run was interrupted.
Nor does what takes the place of a sample that cannot be read.
"""

import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from os import cpu_count
from typing import NamedTuple, TypeVar, final

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from segdistill.crops import Crop, Wish, augment, window
from segdistill.datasets import Dataset
from segdistill.frames import before, exact, mixed
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec, UniformSpec
from segdistill.sampling import Drawn, Sampling, remembered
from segdistill.types import Batch, ClassTable, Sample, Shown, Table

T = TypeVar("T")
Place = tuple[int, int] | tuple[int, int, int, int]
"""(epoch, index): which pass over the data, and which sample; if drawn for a class also (…, class, place in epoch)."""

FRAMES_STREAM = (1,)
"""Of random numbers, beside the permutations and those of the sampling for classes."""


class Unreadable(Mistake):
    """Samples that cannot be read; by their indices, why."""

    def __init__(self, samples: Mapping[int, str]) -> None:
        super().__init__(next(iter(samples.values())))
        self.samples = samples


@final
class Cached(Dataset):
    """A dataset decoded once and kept in memory, where workers forked later share it; so is why a sample cannot be."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.classes: ClassTable = dataset.classes
        self.samples: Sequence[Sample | Mistake] = _tried(dataset.__getitem__, len(dataset), "decoding")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if isinstance(sample, Mistake):
            raise Mistake(str(sample))
        return sample

    def key(self, index: int) -> str:
        return self.dataset.key(index)

    def only(self, indices: Sequence[int]) -> "Cached":
        fewer = copy(self)
        fewer.dataset, fewer.samples = self.dataset.only(indices), [self.samples[index] for index in indices]
        return fewer

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


class PixelCounts(NamedTuple):
    """Labelled pixels of every image and class."""

    table: np.ndarray
    """[images, K]."""

    @property
    def class_pixels(self) -> list[int]:
        """Of each class, in all images."""
        return self.table.sum(0, dtype=np.int64).tolist()

    @property
    def class_image_pixels(self) -> list[int]:
        """Of any class, in the images that contain each class."""
        return (self.table.sum(1, dtype=np.int64) @ (self.table > 0)).tolist()

    def grouped(self, members: Sequence[Sequence[int]]) -> "PixelCounts":
        """The counts of groups of classes; pixels of a class in no group are no longer labelled."""
        return PixelCounts(np.stack([self.table[:, list(group)].sum(1, dtype=np.int64) for group in members], 1))


def count_pixels(dataset: Dataset) -> PixelCounts:
    """Labelled pixels per image and class; reading them finds a bad label file before training does.

    They are remembered by the data's fingerprint: files that have not changed since are not read, nor checked, again.
    """
    return PixelCounts(class_counts(dataset)[:, :-1])


def class_counts(dataset: Dataset) -> np.ndarray:
    """uint32 [images, K + 1]: pixels of each class, and of void in the last column; counted once per data set.

    Raises:
        Unreadable: with every sample that is.
    """
    classes = len(dataset.classes.names)

    def of_image(index: int) -> np.ndarray:
        counts = _histogram(dataset.labels(index))
        return np.append(counts[:classes], counts[classes:].sum()).astype(np.uint32)

    return remembered(dataset, lambda: np.stack(_all(of_image, len(dataset), "reading labels")))


def _histogram(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=256)


def unreadable(dataset: Dataset) -> Mapping[int, str]:
    """Which samples have labels (or, where they are cached, images) that cannot be read, and why."""
    try:
        class_counts(dataset)
    except Unreadable as found:
        return found.samples
    return {}


def need_readable(where: str, bad: Mapping[str, str], count: int, bad_share: float) -> None:
    """The mistake of data of which too much cannot be read.

    Args:
        where: what the sentence begins with.
        bad: key -> why.
        count: samples that there are, the bad ones included.
    """
    if len(bad) / count > bad_share:
        share = f"{100 * len(bad) / count:.3g}%, data.bad_share allows {100 * bad_share:.3g}%"
        said = next(iter(bad.values()))
        raise Mistake(
            f"{where}: {len(bad)} of {count} samples cannot be read ({share}): {said}; data check names them all"
        )


def readable(dataset: Dataset, indices: Iterable[int], bad: dict[str, str], named: set[str]) -> Iterator[Sample]:
    """The samples that can be read; of the others `bad` gets key and reason, stderr too where they are not `named`."""
    for index in indices:
        try:
            sample = dataset[index]
        except Mistake as mistake:
            key = dataset.key(index)
            bad[key] = str(mistake)
            if key not in named:
                named.add(key)
                print(f"segdistill: {key} left out: {mistake}", file=sys.stderr)
        else:
            yield sample


def _all(read: Callable[[int], T], count: int, what: str) -> list[T]:
    """Every item, in order.

    Raises:
        Unreadable: with every item that is.
    """
    answers = _tried(read, count, what)
    items = [answer for answer in answers if not isinstance(answer, Mistake)]
    if len(items) < count:
        raise Unreadable({i: str(answer) for i, answer in enumerate(answers) if isinstance(answer, Mistake)})
    return items


def _tried(read: Callable[[int], T], count: int, what: str) -> list[T | Mistake]:
    """Every item or why it cannot be read, in order, by as many threads as there are cores."""

    def tried(index: int) -> T | Mistake:
        try:
            return read(index)
        except Mistake as mistake:
            return mistake

    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(watched(pool.map(tried, range(count)), what, count))


def watched(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    """The items, with a bar on a terminal's stderr while they come; stdout stays the caller's."""
    console = Console(stderr=True)
    return track(items, what, count, transient=True, console=console, disable=not console.is_terminal)


@final
class _Passes:
    """A permutation of so many samples for every epoch: position -> (epoch, offset in it, sample)."""

    def __init__(self, length: int, seed: int, stream: tuple[int, ...] = ()) -> None:
        self.length, self.seed, self.stream = length, seed, stream
        self.epoch = -1
        self.permutation = np.empty(0, np.int64)

    def __call__(self, position: int) -> tuple[int, int, int]:
        epoch, offset = divmod(position, self.length)
        if epoch != self.epoch:
            seeds = np.random.SeedSequence([self.seed, epoch], spawn_key=self.stream)
            self.epoch, self.permutation = epoch, np.random.default_rng(seeds).permutation(self.length)
        return epoch, offset, int(self.permutation[offset])


@final
class Order(Sampler[list[Place]]):
    """The batches of one rank from step `start` on, without end: every epoch a permutation drawn by (seed, epoch).

    `sampling` puts samples that it draws for a class into some of the places. A global batch is `batch` consecutive
    places; rank r of n takes every n-th of them, so the ranks together see what one process would.

    Of `frames` further samples, whose indices follow, `rate` of the crops are drawn, in passes of their own. They stand
    at the end of each global batch, so that the ranks have as many each, give or take one; the samples before them are
    in the order that they would have without.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        sampling: Sampling | None = None,
        *,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
        frames: int = 0,
        rate: float = 0.0,
    ) -> None:
        self.length, self.batch, self.seed, self.sampling = length, batch, seed, sampling
        self.start, self.rank, self.ranks = start, rank, ranks
        self.rate = exact(rate if frames else 0.0)
        self.samples, self.frames = _Passes(length, seed), _Passes(frames, seed, FRAMES_STREAM)
        self.epoch = -1
        self.drawn: dict[int, Drawn] = {}

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start
        while True:
            first = step * self.batch
            yield [self.place(position) for position in range(first + self.rank, first + self.batch, self.ranks)]
            step += 1

    def place(self, position: int) -> Place:
        if not self.rate:
            return self._labelled(position)
        step, offset = divmod(position, self.batch)
        shown, then = (before((step + each) * self.batch, self.rate) for each in (0, 1))
        labelled = self.batch - (then - shown)
        if offset < labelled:
            return self._labelled(step * self.batch - shown + offset)
        epoch, _, frame = self.frames(shown + offset - labelled)
        return epoch, self.length + frame

    def _labelled(self, position: int) -> Place:
        """Of the training split, whose own positions are counted without the frames between them."""
        epoch, offset, sample = self.samples(position)
        if epoch != self.epoch:
            self.epoch, self.drawn = epoch, self.sampling.drawn(self.seed, epoch) if self.sampling else {}
        if offset in self.drawn:
            sample, label = self.drawn[offset]
            return epoch, sample, label, offset
        return epoch, sample


@final
class Augmented(TorchDataset["Crop | Mistake"]):
    """A place -> a random crop of that sample, or of others drawn for the place as long as they cannot be read.

    Which others depends on the seed, the place and the files alone. When so many fail that something else must be
    wrong, the last one's sentence travels as a value out of a worker.

    Args:
        frames: so many samples of the dataset, the last ones, are frames; one takes another's place.
    """

    ATTEMPTS = 20

    def __init__(self, dataset: Dataset, spec: DataSpec, crop: tuple[int, int], seed: int, *, frames: int = 0) -> None:
        self.dataset, self.spec, self.crop, self.seed = dataset, spec, crop, seed
        self.labelled = len(dataset) - frames

    def __getitem__(self, place: Place) -> Crop | Mistake:
        random, wish = _chances(place, self.spec, self.seed)
        bad: dict[str, str] = {}
        index = place[1]
        alike = (0, self.labelled) if index < self.labelled else (self.labelled, len(self.dataset))
        for attempt in range(1, 1 + self.ATTEMPTS):
            try:
                sample = self.dataset[index]
            except Mistake as mistake:
                bad[self.dataset.key(index)] = str(mistake)
                index = int(np.random.default_rng([self.seed, *place, attempt]).integers(*alike))
                continue
            wish = None if bad else wish  # the other need not hold the class
            crop = augment(sample, self.spec.size, self.crop, self.spec.augment, random, wish)
            return crop._replace(sample=index, bad=bad)
        return Mistake(list(bad.values())[-1])


def _chances(place: Place, spec: DataSpec, seed: int) -> tuple[np.random.Generator, Wish | None]:
    """The random numbers of a sample's crop, and the class that it was drawn for."""
    epoch, index, *drawn = place
    if not drawn or isinstance(spec.sampling, UniformSpec):
        return np.random.default_rng([seed, epoch, index]), None
    label, offset = drawn  # an image that is drawn again gets another crop
    random = np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(offset,)))
    return random, Wish(spec.sampling, label)


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
        {key: why for crop in crops for key, why in crop.bad.items()},
        Shown(
            torch.tensor([crop.sample for crop in crops]),
            torch.tensor([crop.checksum for crop in crops]),
            torch.stack([crop.axes for crop in crops]),
        ),
    )


def training_batches(
    dataset: Dataset,
    spec: DataSpec,
    seed: int,
    *,
    start: int,
    batch: int,
    rank: int,
    ranks: int,
    frames: Dataset | None = None,
    pin: bool = False,
) -> Generator[Batch]:
    """Batches without end, from batch number `start` on; `batch` images over all ranks.

    Args:
        dataset: the training split; classes are looked for in it alone.
        frames: images without labels, mixed in as `data.frames.rate` says.

    Raises:
        Mistake: sample after sample cannot be read, or no image has a label where classes are looked for.
    """
    count, rate = (len(frames), spec.frames.rate) if frames is not None and spec.frames is not None else (0, 0.0)
    sampling = _sampling(dataset, spec)
    order = Order(len(dataset), batch, seed, sampling, start=start, rank=rank, ranks=ranks, frames=count, rate=rate)
    feed = Augmented(mixed(dataset, frames), spec, crop_size(dataset, spec), seed, frames=count)
    loader = DataLoader(
        feed,
        batch_sampler=order,
        num_workers=spec.workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_leave_interrupts,
    )
    return _raising(iter(loader))


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and a launcher's SIGTERM a whole group: the main one decides."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _sampling(dataset: Dataset, spec: DataSpec) -> Sampling | None:
    """What the recipe draws for classes; None: nothing."""
    return None if isinstance(spec.sampling, UniformSpec) else Sampling(spec.sampling, class_counts(dataset))


def class_shares(dataset: Dataset, spec: DataSpec, seed: int, crops: int = 256) -> Table:
    """Each class's share of the labelled pixels in the data, and in the first crops of a run; decodes labels only."""
    order = Order(len(dataset), crops, seed, _sampling(dataset, spec))
    crop = crop_size(dataset, spec)

    def of_crop(place: Place) -> np.ndarray:
        random, wish = _chances(place, spec, seed)
        labels = dataset.labels(place[1])
        shown = window(labels, spec.size, crop, spec.augment, random, wish)
        return _histogram(shown.of_labels(labels, np.empty(shown.seen, np.uint8)))

    places = [order.place(position) for position in range(crops)]
    classes = dataset.classes.names
    sampled = np.sum(_all(lambda position: of_crop(places[position]), crops, "drawing crops"), 0)[: len(classes)]
    found = class_counts(dataset)[:, :-1].sum(0, dtype=np.int64)
    shares = zip(classes, found / max(1, found.sum()), sampled / max(1, sampled.sum()), strict=True)
    return Table(["class", "share in the data", "share as sampled"], [[n, float(a), float(b)] for n, a, b in shares])


def _raising(items: Iterator[Batch | Mistake]) -> Generator[Batch]:
    for item in items:
        if isinstance(item, Mistake):
            raise item
        yield item


def crop_size(dataset: Dataset, spec: DataSpec) -> tuple[int, int]:
    """The training crop: as the recipe says, else the network's input size, else the first image's."""
    if spec.crop or spec.size:
        return spec.crop or spec.size or (0, 0)
    height, width = dataset.labels(0).shape
    return height, width


def as_float(image: Tensor) -> Tensor:
    """uint8 [b, 3, H, W] -> [0, 1], channels last (the faster layout of convolutions on CPU and GPU)."""
    return image.float().div(255).contiguous(memory_format=torch.channels_last)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the models are; a copy from pinned memory does not wait."""
    image, labels, pad = (tensor.to(device, non_blocking=True) for tensor in (batch.image, batch.labels, batch.pad))
    return batch._replace(image=image, labels=labels, pad=pad)
