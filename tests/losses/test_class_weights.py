"""Weights by name: published lists, a small data set counted by hand, and the classes that never occur."""

import math
from statistics import median

import numpy as np
import pytest
import torch

from segdistill.data import count_pixels
from segdistill.datasets import Dataset
from segdistill.losses._class_weights import by_name, effective_number, log_prior, weights_of
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE, ClassTable, Sample

NAMES = ["inverse", "median_frequency", "enet", "erfnet", "effective_number"]

# Cityscapes, training split: shares of the labelled pixels in units of 10⁻⁵, and the published list of ENet's weights,
# whose frequencies count the 11.6 % of void.
CITYSCAPES = [36900, 6090, 22810, 656, 878, 1228, 208, 553, 15910, 1160, 4010, 1220, 135, 7000, 268, 236, 233, 99, 414]
PUBLISHED = [
    *(3.36, 14.04, 4.99, 39.26, 36.52, 32.90, 46.28, 40.67, 6.71, 33.56),
    *(18.54, 33.00, 47.68, 12.70, 45.21, 45.78, 45.83, 48.41, 42.76),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("enet", [2.3883, 3.6019, 5.0289, 50.4983]),
        ("erfnet", [2.1276, 2.9720, 3.8115, 10.4921]),
        ("inverse", [2, 10 / 3, 5, 5]),
    ],
)
def test_by_hand(name: str, expected: list[float]) -> None:
    """f = .5, .3, .2, 0."""
    weights = by_name(name, [500, 300, 200, 0], [])
    scale = 3 / sum(expected[:3]) if name == "inverse" else 1
    assert weights.tolist() == pytest.approx([scale * weight for weight in expected], abs=6e-5)


def test_published_weights_of_enet() -> None:
    """Void as one more class gives the list; we leave void out, which makes frequent classes lighter."""
    labelled = sum(CITYSCAPES)
    with_void = by_name("enet", [*CITYSCAPES, round(labelled * 0.116 / 0.884)], [])[:-1]
    assert with_void.tolist() == pytest.approx(PUBLISHED, abs=0.02)
    ours = by_name("enet", CITYSCAPES, [])
    assert float(ours[0]) == pytest.approx(3.04, abs=5e-3)
    assert float(ours[-1]) == pytest.approx(41.92, abs=5e-3)


def test_effective_number_by_hand() -> None:
    """β = .99."""
    weights = effective_number(torch.tensor([500, 300, 20], dtype=torch.float64), volume=100.0)
    assert weights.tolist() == pytest.approx([0.39999, 0.41785, 2.18217], abs=6e-6)


@pytest.mark.parametrize("pixels", [[500, 300, 20], [3_000_000_000, 5_000_000, 40_000]])
def test_effective_number_as_the_paper_writes_it(pixels: list[int]) -> None:
    beta = 1 - len(pixels) / sum(pixels)
    each = [(1 - beta) / (1 - beta**n) for n in pixels]
    expected = [len(pixels) * weight / sum(each) for weight in each]
    assert by_name("effective_number", pixels, []).tolist() == pytest.approx(expected, rel=1e-6)


def test_effective_number_lies_between_equal_and_inverse() -> None:
    few, many = (effective_number(torch.tensor([900.0, 90.0]).double(), volume) for volume in (2.0, 1e9))
    assert few.tolist() == pytest.approx([1, 1])
    assert many.tolist() == pytest.approx(by_name("inverse", [900, 90], []).tolist(), rel=1e-4)


class Small(Dataset):
    """Images of a few pixels; class 3 never occurs, and one image has no label."""

    classes = ClassTable(tuple("abcd"), ((0, 0, 0),) * 4)
    images = (
        [[0, 0, 0, 1], [0, 0, 0, 1]],
        [[0, 0, 0, 0], [0, 2, IGNORE, IGNORE]],
        [[1, 1, IGNORE, IGNORE], [IGNORE] * 4],
        [[IGNORE] * 4, [IGNORE] * 4],
    )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        labels = torch.tensor(self.images[index], dtype=torch.uint8)
        return Sample(torch.zeros(3, *labels.shape, dtype=torch.uint8), labels, str(index))

    def fingerprint(self) -> str:
        return "0123456789abcdef"


def test_median_frequency_of_a_counted_data_set() -> None:
    """The divisor are the labelled pixels of the images that contain the class, not those of all images."""
    frequencies: list[float] = []
    for label in range(3):
        inside = [[pixel for row in image for pixel in row] for image in Small.images]
        inside = [[pixel for pixel in image if pixel != IGNORE] for image in inside if label in image]
        frequencies.append(sum(image.count(label) for image in inside) / sum(len(image) for image in inside))
    assert frequencies == pytest.approx([11 / 14, 4 / 10, 1 / 6])
    counts = count_pixels(Small())
    weights = by_name("median_frequency", counts.class_pixels, counts.class_image_pixels)
    expected = [median(frequencies) / frequency for frequency in frequencies] + [0.0]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12)


def test_counts_of_the_small_data_set() -> None:
    counts = count_pixels(Small())
    assert counts.class_pixels == [11, 4, 1, 0]
    assert counts.class_image_pixels == [14, 10, 6, 0]


def test_counts_of_groups_are_those_of_relabelled_images() -> None:
    """An image that contains two classes of a group counts once: sums of the classes' numbers would count it twice."""

    class Grouped(Small):
        classes = ClassTable(("ab", "d"), ((0, 0, 0),) * 2)
        images = tuple(
            [[{0: 0, 1: 0, 3: 1}.get(pixel, IGNORE) for pixel in row] for row in image] for image in Small.images
        )

        def fingerprint(self) -> str:
            return "fedcba9876543210"

    found, expected = count_pixels(Small()).grouped(((0, 1), (3,))), count_pixels(Grouped())
    assert np.array_equal(found.table, expected.table)
    assert found.class_image_pixels == expected.class_image_pixels == [15, 0]


def test_median_of_an_even_number_of_classes_lies_between() -> None:
    weights = by_name("median_frequency", [10, 20, 30, 40], [100] * 4)
    assert weights.tolist() == pytest.approx([2.5, 1.25, 0.25 / 0.3, 0.625])


@pytest.mark.parametrize("name", NAMES)
def test_a_rarer_class_weighs_more(name: str) -> None:
    weights = by_name(name, CITYSCAPES, [sum(CITYSCAPES)] * 19)
    order = sorted(range(19), key=lambda k: CITYSCAPES[k])
    assert (weights[order].diff() < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_the_images_does_not_matter(name: str) -> None:
    one, other = (by_name(name, [s * n for n in (900, 90, 9)], [s * 999] * 3) for s in (1000, 4000))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_never_occurs_is_finite_and_moves_no_other(name: str) -> None:
    with_it = by_name(name, [500, 300, 200, 0], [1000, 1000, 500, 0])
    without = by_name(name, [500, 300, 200], [1000, 1000, 500])
    assert with_it.isfinite().all()
    if name != "effective_number":  # its β comes from the mean over all classes
        torch.testing.assert_close(with_it[:3], without)
    last = float(with_it[3])
    assert last == 0 if name == "median_frequency" else last >= float(with_it[:3].max())


@pytest.mark.parametrize("name", NAMES)
def test_without_a_labelled_pixel(name: str) -> None:
    weights = by_name(name, [0, 0], [0, 0])
    assert weights.isfinite().all()
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", ["inverse", "effective_number"])
def test_the_mean_weight_is_one(name: str) -> None:
    assert float(by_name(name, CITYSCAPES, []).mean()) == pytest.approx(1, rel=1e-12)


def test_the_clip_comes_last() -> None:
    """Nothing is rescaled after it."""
    free = weights_of("inverse", None, 19, CITYSCAPES, [])
    clipped = weights_of("inverse", 2.5, 19, CITYSCAPES, [])
    assert clipped.tolist() == [min(weight, 2.5) for weight in free.tolist()]
    assert float(free.max()) > 2.5 > float(free.min())


@pytest.mark.parametrize(("said", "clip"), [(None, 2.0), ([1.0, 2.0], 2.0), ("enet", 0.0), ("enet", -1.0)])
def test_a_clip_of_nothing(said: list[float] | None, clip: float) -> None:
    with pytest.raises(
        Mistake, match=r"^weight_clip: expected more than 0, and class_weights by name, got -?\d\.0 for"
    ):
        weights_of(said, clip, 2, [1, 1], [2, 2])


def test_no_weights_are_ones() -> None:
    assert weights_of(None, None, 3, [], []).tolist() == [1, 1, 1]


def test_prior() -> None:
    assert log_prior([500, 300, 200]).tolist() == pytest.approx([math.log(share) for share in (0.5, 0.3, 0.2)])
    assert log_prior([999, 0]).tolist() == pytest.approx([math.log(0.999), math.log(0.001)])
    assert log_prior([0, 0]).tolist() == pytest.approx([math.log(0.5)] * 2)
