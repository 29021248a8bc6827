"""From a dataset to batches: order, augmentation and counting are pure functions of seed, epoch and index."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.crops import augment, canonical, jitter
from segdistill.data import Augmented, Cached, Order, as_float, collate, count_pixels, crop_size, training_batches
from segdistill.datasets import Dataset
from segdistill.datasets.streets import Streets
from segdistill.recipe import AugmentSpec, DataSpec
from segdistill.types import IGNORE, Batch, ClassTable, Sample

PLAIN = AugmentSpec(scale=(1.0, 1.0), flip=False, jitter=0.0)
STEP = 12
"""Between the grey values of two classes, and of void."""


class Painted(Dataset):
    """Blocks of classes whose colour says the class: red, green and blue are (class + 1)·STEP; void is white."""

    classes = ClassTable(tuple("abcdefgh"), tuple((k, k, k) for k in range(8)))

    def __init__(self, count: int = 5, size: tuple[int, int] = (32, 48), block: int = 8) -> None:
        self.count, self.size, self.block = count, size, block
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        random = np.random.default_rng(index)
        rows, columns = self.size[0] // self.block, self.size[1] // self.block
        cells = random.choice([*range(8), IGNORE], (rows, columns))
        labels = cells.repeat(self.block, 0).repeat(self.block, 1).astype(np.uint8)
        image = np.stack([colours(labels)] * 3).copy()
        return Sample(torch.from_numpy(image), torch.from_numpy(labels), f"painted-{index}")

    def fingerprint(self) -> str:
        return f"{self.count:016x}"


def colours(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == IGNORE, 255, (labels.astype(int) + 1) * STEP).astype(np.uint8)


def spec(**more: object) -> DataSpec:
    return DataSpec.model_validate({"kind": "streets", "batch": 4, **more})


def equal(one: Batch, other: Batch) -> bool:
    assert one.shown is not None and other.shown is not None
    tensors = zip((*one[:3], *one.shown), (*other[:3], *other.shown), strict=True)  # image, labels, pad, …
    return one.keys == other.keys and all(torch.equal(a, b) for a, b in tensors)


# Order


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_sample_once_per_epoch(length: int, batch: int, seed: int) -> None:
    """Also when a batch spans epochs."""
    epochs = 3
    steps = -(-epochs * length // batch)
    places = [place for places in islice(Order(length, batch, seed), steps) for place in places][: epochs * length]
    assert len(places) == epochs * length
    assert [epoch for epoch, _ in places] == sorted(epoch for epoch, _ in places)
    assert Counter(places) == Counter((epoch, index) for epoch in range(epochs) for index in range(length))


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), share=st.integers(1, 4), ranks=st.integers(1, 4), start=st.integers(0, 20))
def test_ranks_share_the_global_batch(length: int, share: int, ranks: int, start: int) -> None:
    whole = islice(Order(length, share * ranks, 7, start=start), 6)
    parts = [islice(Order(length, share * ranks, 7, start=start, rank=rank, ranks=ranks), 6) for rank in range(ranks)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(len(each) == share for each in shares)
        assert Counter(place for each in shares for place in each) == Counter(batch)


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), batch=st.integers(1, 12), start=st.integers(0, 40))
def test_a_later_start_continues_the_same_sequence(length: int, batch: int, start: int) -> None:
    whole = list(islice(Order(length, batch, 5), start + 5))
    assert list(islice(Order(length, batch, 5, start=start), 5)) == whole[start:]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other = (list(islice(Order(50, 50, seed), 2)) for seed in (3, 3, 4))
    assert first == again != other
    indices = [[index for _, index in places] for places in first]
    assert indices[0] != indices[1] and indices[0] != list(range(50))


def test_two_iterations_of_one_order_are_equal() -> None:
    order = Order(7, 3, 0)
    assert list(islice(order, 9)) == list(islice(order, 9))


# Augmentation


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    def crop(seed: int, epoch: int, index: int) -> torch.Tensor:
        return Augmented(Painted(), spec(), (24, 24), seed)[epoch, index].image

    assert torch.equal(crop(0, 1, 2), crop(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)):
        assert not torch.equal(crop(0, 1, 2), crop(*other))
    feed = Augmented(Painted(), spec(), (24, 24), 0)
    feed[5, 4], torch.rand(3), np.random.default_rng().random()
    assert torch.equal(feed[1, 2].image, crop(0, 1, 2))  # whatever came before


def test_without_augmentation_a_crop_of_the_size_is_the_sample() -> None:
    sample = Painted()[0]
    crop = augment(sample, None, (32, 48), PLAIN, np.random.default_rng(0))
    assert torch.equal(crop.image, sample.image) and torch.equal(crop.labels, sample.labels)
    assert not crop.pad.any() and crop.key == sample.key


def test_without_scaling_a_crop_is_a_window_of_the_sample() -> None:
    sample = Painted()[0]
    seen = set()
    for seed in range(60):
        crop = augment(sample, None, (16, 24), PLAIN, np.random.default_rng(seed))
        windows = sample.image.unfold(1, 16, 1).unfold(2, 24, 1)  # [3, 17, 25, 16, 24]
        found = (windows == crop.image[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
        assert found and not crop.pad.any()
        assert any(torch.equal(sample.labels[y : y + 16, x : x + 24], crop.labels) for y, x in found)
        seen |= {tuple(place) for place in found if len(found) == 1}
    assert len(seen) > 20  # all over the image
    assert {y for y, _ in seen} & {0, 1} and {y for y, _ in seen} & {15, 16}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    low=st.floats(0.3, 1.0),
    high=st.floats(1.0, 3.0),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_padding_marks_exactly_what_was_invented(seed: int, low: float, high: float, height: int, width: int) -> None:
    """White images: what is black was invented, and is void, and forms a frame around one rectangle."""
    sample = Painted(size=(32, 48))[seed % 5]
    white = sample._replace(image=torch.full_like(sample.image, 255), labels=torch.ones_like(sample.labels))
    augmentation = AugmentSpec(scale=(low, high), flip=True, jitter=0.0)
    crop = augment(white, None, (height, width), augmentation, np.random.default_rng(seed))
    assert crop.image.shape == (3, height, width) and crop.labels.shape == crop.pad.shape == (height, width)
    assert crop.image.dtype == crop.labels.dtype == torch.uint8 and crop.pad.dtype == torch.bool
    assert torch.equal(crop.pad, (crop.image == 0).all(0))
    assert torch.equal(crop.pad, crop.labels == IGNORE)
    assert (crop.image[:, ~crop.pad] == 255).all() and (crop.labels[~crop.pad] == 1).all()
    rows, columns = (~crop.pad).any(1), (~crop.pad).any(0)
    assert torch.equal(~crop.pad, rows[:, None] & columns[None])
    for whole, side, seen in ((32, height, rows), (48, width, columns)):
        assert min(side, max(1, round(whole * low))) <= int(seen.sum()) <= min(side, max(1, round(whole * high)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([None, (32, 48), (48, 72), (24, 40)]))
def test_image_and_labels_stay_together(seed: int, size: tuple[int, int] | None) -> None:
    """Two pixels away from any border the colour of a pixel still says its label."""
    sample = Painted(block=32, size=(64, 96))[seed % 5]
    augmentation = AugmentSpec(scale=(0.7, 2.0), flip=True, jitter=0.0)
    crop = augment(sample, size, (40, 56), augmentation, np.random.default_rng(seed))
    labels = crop.labels.numpy()
    window = np.lib.stride_tricks.sliding_window_view(np.pad(labels, 2, constant_values=254), (5, 5))
    pad = np.lib.stride_tricks.sliding_window_view(np.pad(crop.pad.numpy(), 2), (5, 5))
    inside = (window == labels[..., None, None]).all((2, 3)) & ~pad.any((2, 3))
    assert inside.mean() > 0.02
    error = np.abs(crop.image[0].numpy().astype(int) - colours(labels))
    assert error[inside].max() <= 1


def test_labels_lie_where_their_pixels_lie() -> None:
    """No shift of a part of a pixel: over many crops the borders of image and labels agree on average."""
    left = torch.zeros(64, 64, dtype=torch.uint8)
    left[:, 32:] = 1
    sample = Sample((left * 200).expand(3, 64, 64).contiguous(), left, "edge")
    shifts = []
    for seed in range(60):
        augmentation = AugmentSpec(scale=(0.5, 3.0), flip=False, jitter=0.0)
        crop = augment(sample, None, (48, 48), augmentation, np.random.default_rng(seed))
        if not crop.pad.any():
            shifts.append(float((crop.image[0].float() / 200 - crop.labels.float()).sum(1).mean()))
    assert len(shifts) > 20
    assert abs(np.mean(shifts)) < 0.06


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0.2, 2.5),
    size=st.sampled_from([None, (70, 61), (199, 150)]),
    height=st.integers(20, 150),
    width=st.integers(20, 150),
)
def test_a_crop_lies_where_it_says(
    seed: int, scale: float, size: tuple[int, int] | None, height: int, width: int
) -> None:
    """Labels that count rows or columns, exactly; ramps of the image as well as eight bits can tell."""
    y, x = torch.meshgrid(torch.arange(121), torch.arange(119), indexing="ij")
    sample = Sample(torch.stack([2 * y, 2 * x, 0 * x]).to(torch.uint8), torch.ones(121, 119, dtype=torch.uint8), "ramp")
    augmentation = AugmentSpec(scale=(scale, scale), flip=True, jitter=0.0)
    for axis, count in enumerate((y, x)):
        labelled = sample._replace(labels=count.to(torch.uint8))
        crop = augment(labelled, size, (height, width), augmentation, np.random.default_rng(seed))
        inside = ~crop.pad
        factor, offset = (float(v) * count.shape[axis] / (size or count.shape)[axis] for v in crop.axes[axis])
        place = factor * (torch.arange(crop.pad.shape[axis]) + 0.5) + offset
        place = (place if axis else place[:, None]).expand_as(inside)[inside]
        found = crop.labels[inside]
        assert ((found - place + 0.5).abs() <= 0.5 + 1e-3).all()
        within = (place > 1.5 * abs(factor) + 1) & (place < count.shape[axis] - 1.5 * abs(factor) - 1)
        cut = crop.image[axis][inside][within].float() / 2 + 0.5 - place[within]
        assert not len(cut) or float(cut.abs().median()) < 0.3  # it is rounded to halves of a pixel


def test_the_scale_is_what_was_drawn_up_to_a_pixel() -> None:
    sample = Painted(size=(96, 128))[0]
    for seed in range(100):
        drawn = float(np.exp(np.random.default_rng(seed).uniform(*np.log((0.4, 2.0)))))
        crop = augment(sample, None, (32, 48), AugmentSpec(scale=(0.4, 2.0), flip=False), np.random.default_rng(seed))
        for axis, (part, whole) in enumerate(((32, 96), (48, 128))):
            if part < whole * drawn:
                pixels = float(crop.axes[axis, 0]) * part
                assert abs(pixels - part / drawn) <= max(1, round(1 / drawn)) + 0.5


def test_reducing_is_close_to_what_the_whole_image_becomes_in_evaluation() -> None:
    """Pillow's filter, whose reach grows with the factor, against means and interpolation between them."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 96, 144), np.uint8))
    sample = Sample(image, torch.zeros(96, 144, dtype=torch.uint8), "noise")
    for size, share in (((64, 96), 1.01), ((48, 72), 1.01), ((38, 58), 0.4), ((32, 48), 0.3), ((24, 36), 0.4)):
        crop = augment(sample, size, size, PLAIN, np.random.default_rng(0)).image.float()
        wanted = canonical(sample, size).float()
        plain = F.interpolate(image[None].float(), size, mode="bilinear")[0]
        assert float((crop - wanted).std()) < share * float((plain - wanted).std())
        assert abs(float((crop - wanted).mean())) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (9, 7)])
def test_images_of_any_size_and_layout(size: tuple[int, int]) -> None:
    """A dataset of somebody else's may give views: other strides are the same crop."""
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.integers(0, 256, (*size, 3), np.uint8)).permute(2, 0, 1)
    sample = Sample(image, torch.from_numpy(random.integers(0, 8, size, np.uint8)), "small")
    for seed in range(30):
        augmentation = AugmentSpec(scale=(0.1, 3.0))
        crops = [
            augment(each, None, (5, 6), augmentation, np.random.default_rng(seed))
            for each in (sample, sample._replace(image=image.contiguous(), labels=sample.labels.t().contiguous().t()))
        ]
        assert all(torch.equal(a, b) for a, b in zip(crops[0][:3], crops[1][:3], strict=True))
        assert set(crops[0].labels.unique().tolist()) <= {*sample.labels.unique().tolist(), IGNORE}


def test_flips_are_one_half_and_whole() -> None:
    sample = Painted()[1]
    flipped = 0
    for seed in range(200):
        augmentation = AugmentSpec(scale=(1.0, 1.0), flip=True, jitter=0.0)
        crop = augment(sample, None, (32, 48), augmentation, np.random.default_rng(seed))
        as_is = torch.equal(crop.image, sample.image)
        assert as_is or torch.equal(crop.image, sample.image.flip(-1))
        assert torch.equal(crop.labels, sample.labels if as_is else sample.labels.flip(-1))
        flipped += not as_is
    assert 70 < flipped < 130


def test_turning_flips_off_changes_nothing_else() -> None:
    """Else two recipes that differ in `flip` would not be compared on the same crops."""
    for seed in range(20):
        with_flip, without = (
            augment(
                Painted()[0],
                None,
                (24, 24),
                AugmentSpec(scale=(0.5, 2.0), flip=flip, jitter=0.2),
                np.random.default_rng(seed),
            )
            for flip in (True, False)
        )
        assert torch.equal(with_flip.image, without.image) or torch.equal(with_flip.image.flip(-1), without.image)


def test_scales_fill_their_range_evenly_in_their_logarithm() -> None:
    """A crop larger than any scaled image shows how large the image became."""
    sample = Painted(size=(40, 40))[0]
    scales = []
    for seed in range(400):
        crop = augment(sample, None, (100, 100), AugmentSpec(scale=(0.5, 2.0)), np.random.default_rng(seed))
        height, width = (int((~crop.pad).any(axis).sum()) for axis in (1, 0))
        assert height == width
        scales.append(height / 40)
    assert min(scales) >= 0.5 and max(scales) <= 2.0
    assert min(scales) < 0.53 and max(scales) > 1.9
    assert abs(np.mean(np.log(scales))) < 0.07


def test_scale_is_relative_to_the_size_of_the_recipe() -> None:
    crop = augment(Painted(size=(32, 48))[0], (16, 24), (32, 48), PLAIN, np.random.default_rng(0))
    assert ((~crop.pad).any(1).sum(), (~crop.pad).any(0).sum()) == (16, 24)


def slow_jitter(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """One after the other and unrounded: brighter, away from the mean, away from each pixel's grey."""
    x = image.astype(np.float64) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    grey = np.tensordot([0.299, 0.587, 0.114], x, 1)
    return ((x - grey) * saturation + grey).clip(0, 255)


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.9])
def test_jitter_is_brightness_contrast_and_saturation(strength: float) -> None:
    """To the rounding of the grey, which up to a saturation of two counts once, and of the result."""
    for seed in range(20):
        image = np.random.default_rng(seed).integers(0, 256, (3, 13, 17), np.uint8)
        factors = np.random.default_rng(seed).uniform(1 - strength, 1 + strength, 3)
        done = jitter(image, strength, np.random.default_rng(seed), np.empty_like(image))
        assert np.abs(done - slow_jitter(image, *factors)).max() < 0.51 + factors[0] * factors[1]


def test_jitter_is_bounded_and_off_at_zero() -> None:
    grey = np.full((3, 4, 4), 100, np.uint8)
    values: list[int] = []
    for seed in range(200):
        image = grey.copy()
        assert np.array_equal(jitter(image, 0.0, np.random.default_rng(seed), image), grey)
        jitter(image, 0.3, np.random.default_rng(seed), image)
        assert image.min() == image.max()  # grey and flat: brightness alone
        values.append(int(image.max()))
    assert min(values) >= 70 and max(values) <= 130 and np.std(values) > 10


def test_jitter_leaves_the_labels_and_the_padding() -> None:
    augmentation = AugmentSpec(scale=(0.5, 0.5), flip=False, jitter=0.9)
    plain = augmentation.model_copy(update={"jitter": 0.0})
    one, other = (
        augment(Painted()[0], None, (48, 64), each, np.random.default_rng(1)) for each in (augmentation, plain)
    )
    assert torch.equal(one.labels, other.labels) and torch.equal(one.pad, other.pad)
    assert not one.image[:, one.pad].any()
    assert not torch.equal(one.image, other.image)


# Batches


def test_collate() -> None:
    crops = [augment(Painted()[i], None, (16, 16), PLAIN, np.random.default_rng(i)) for i in range(3)]
    batch = collate(crops)
    assert batch.image.shape == (3, 3, 16, 16) and batch.image.dtype == torch.uint8
    assert batch.labels.dtype == torch.int64 and batch.pad.dtype == torch.bool
    assert batch.keys == ("painted-0", "painted-1", "painted-2")


def test_workers_change_nothing() -> None:
    dataset = Cached(Painted())
    alone, helped = (
        training_batches(dataset, spec(workers=workers, crop=[24, 24]), 3, start=2, batch=4, rank=0, ranks=1)
        for workers in (0, 2)
    )
    for _ in range(5):
        assert equal(next(alone), next(helped))


def test_resumed_batches_are_the_same() -> None:
    whole, resumed = (
        training_batches(Painted(), spec(crop=[24, 24]), 3, start=start, batch=4, rank=0, ranks=1) for start in (0, 3)
    )
    expected = list(islice(whole, 6))[3:]
    assert all(equal(a, b) for a, b in zip(expected, resumed, strict=False))


def test_ranks_see_what_one_process_sees() -> None:
    whole = next(training_batches(Painted(), spec(crop=[24, 24]), 3, start=1, batch=4, rank=0, ranks=1))
    parts = [
        next(training_batches(Painted(), spec(crop=[24, 24]), 3, start=1, batch=4, rank=rank, ranks=2))
        for rank in range(2)
    ]
    for rank, part in enumerate(parts):
        assert part.keys == whole.keys[rank::2]
        assert torch.equal(part.image, whole.image[rank::2]) and torch.equal(part.labels, whole.labels[rank::2])


@pytest.mark.parametrize(
    ("said", "expected"),
    [({"crop": [8, 9], "size": [4, 5]}, (8, 9)), ({"size": [4, 5]}, (4, 5)), ({}, (32, 48))],
)
def test_crop_size(said: dict[str, object], expected: tuple[int, int]) -> None:
    assert crop_size(Painted(), spec(**said)) == expected


def test_cached_is_read_once_and_equal() -> None:
    dataset = Painted()
    cached = Cached(dataset)
    assert dataset.reads == 5
    for i in range(5):
        assert all(torch.equal(a, b) for a, b in zip(cached[i][:2], Painted()[i][:2], strict=True))
        assert cached[i].key == f"painted-{i}"
        assert np.array_equal(cached.labels(i), Painted().labels(i))
    assert dataset.reads == 5
    uncached = training_batches(Painted(), spec(), 0, start=0, batch=4, rank=0, ranks=1)
    assert equal(next(training_batches(cached, spec(), 0, start=0, batch=4, rank=0, ranks=1)), next(uncached))
    assert (len(cached), cached.fingerprint(), cached.classes) == (5, Painted().fingerprint(), Painted.classes)


def test_augmentation_does_not_write_into_the_cache() -> None:
    cached = Cached(Painted())
    kept = cached[0].image.clone()
    list(islice(training_batches(cached, spec(), 0, start=0, batch=5, rank=0, ranks=1), 2))
    assert torch.equal(cached[0].image, kept)


def test_count_pixels() -> None:
    dataset = Painted()
    expected = [sum(int((dataset[i].labels == k).sum()) for i in range(5)) for k in range(8)]
    assert count_pixels(dataset).class_pixels == expected
    void = sum(int((dataset[i].labels == IGNORE).sum()) for i in range(5))
    assert sum(expected) + void == 5 * 32 * 48 and void > 0


def test_pixels_are_counted_once() -> None:
    """Of the same data; other data are other counts."""
    dataset, more = Painted(), Painted(6)
    counts = count_pixels(dataset)
    assert dataset.reads == 5
    again = count_pixels(dataset)
    assert dataset.reads == 5 and np.array_equal(again.table, counts.table)
    assert count_pixels(more).table.shape == (6, 8) and more.reads == 6


def test_count_pixels_of_streets_leaves_unlabelled_images_out() -> None:
    labelled, more = Streets(2, (48, 64), split="train"), Streets(2, (48, 64), unlabelled=2, split="train")
    one, other = count_pixels(labelled), count_pixels(more)
    assert one.class_pixels == other.class_pixels
    assert one.class_image_pixels == other.class_image_pixels


def test_as_float() -> None:
    image = torch.arange(0, 240, 5, dtype=torch.uint8).view(1, 3, 4, 4)
    seen = as_float(image)
    assert seen.dtype == torch.float32 and seen.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(seen * 255, image.float())
    assert as_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max() == 1
