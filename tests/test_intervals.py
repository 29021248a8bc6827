"""Intervals against tables and arithmetic by hand, and how often they hold what was planted."""

import math

import numpy as np
import pytest

from segdistill.intervals import chance, holm, interval, ratio, student


@pytest.mark.parametrize(
    ("error", "freedom", "t"),
    [
        *((0.05, 1, 12.7062), (0.05, 2, 4.3027), (0.05, 3, 3.1824), (0.05, 4, 2.7764), (0.05, 9, 2.2622)),
        *((0.05, 30, 2.0423), (0.01, 2, 9.9248), (0.01, 5, 4.0321), (0.001, 10, 4.5869)),
    ],
)
def test_students_t_is_the_tables(error: float, freedom: int, t: float) -> None:
    assert student(error, freedom) == pytest.approx(t, abs=6e-5)


def test_the_margins_of_seeds_and_images_add_as_squares() -> None:
    """Of 1, 2, 3: s = 1, t = 4.3027 at two degrees of freedom; images with a variance of 4 have 1.96 · 2."""
    assert interval([1, 2, 3]) == (2, pytest.approx(4.3027 / math.sqrt(3), rel=1e-4))
    assert interval([1, 2, 3], 4.0) == (2, pytest.approx(math.sqrt(4.3027**2 / 3 + 1.95996**2 * 4), rel=1e-4))
    assert interval([2, 2], 4.0) == (2, pytest.approx(3.91993, rel=1e-5))
    assert interval([7], 4.0) == (7, None)


def test_chance_is_the_error_at_which_the_interval_reaches_nought() -> None:
    """t = 2 √3 of 1, 2, 3 with two degrees of freedom: 1 - √(12 / 14); one degree: 1 - 2 atan(t) / π."""
    assert chance([1, 2, 3]) == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-6)
    assert chance([1, 2]) == pytest.approx(1 - 2 * math.atan(3) / math.pi, rel=1e-6)
    assert chance([1, 1], 0.25) == pytest.approx(0.0455, abs=1e-5)  # two standard deviations
    assert chance([0.0, 0.0]) == chance([5]) == 1 and chance([1, 1]) < 1e-9
    for values, images in (([0.3, 0.5, 0.9], 0.01), ([-3, -1.0], 0.2)):
        mean, half = interval(values, images, chance(values, images))
        assert half == pytest.approx(abs(mean), rel=1e-5)


def test_holm_by_hand() -> None:
    """The smallest is held against 5 % / 4, then / 3, / 2, / 1, up to the first that is not below."""
    assert holm({"a": 0.012, "b": 0.016, "c": 0.06, "d": 0.001}) == {"d", "a", "b"}
    assert holm({"a": 0.013, "b": 0.013, "c": 0.013, "d": 0.013}) == set()
    assert holm({"a": 0.013, "b": 0.2}) == {"a"} and holm({}) == set()


def test_a_ratio_without_spread_below_is_an_interval_divided() -> None:
    mean, half = interval([1, 2, 4])
    assert half is not None
    found = ratio([1, 2, 4], [10, 10, 10])
    assert found == pytest.approx((mean / 10, (mean - half) / 10, (mean + half) / 10))


def test_a_ratio_to_what_may_be_nothing_cannot_be_said() -> None:
    assert ratio([1, 2, 3], [0.1, 2, 1]) is None  # 1.03 ± 2.4
    assert ratio([1, 2, 3], [5, 5, 5], (0.0, 7.0, 0.0)) is None  # 5 ± 5.2 by images
    assert ratio([1, 2, 3], [-5, -5, -5]) is None and ratio([1], [5]) is None
    found = ratio([1, 2, 3], [5, 5, 5], (0.0, 5.0, 0.0))
    assert found is not None and found.low < found.value == 0.4 < found.high


def test_intervals_hold_what_was_planted_in_95_of_100_cases() -> None:
    """2 to 5 seeds, images that weigh from nothing to ten times as much; of 1000 each, 936 are three deviations off."""
    random = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        for weight in (0.0, 0.3, 1.0, 10.0):
            values = random.normal(size=(1000, seeds)) + weight * random.normal(size=(1000, 1))
            found = [interval([float(x) for x in row], weight**2) for row in values]
            held = sum(half is not None and abs(mean) <= half for mean, half in found)
            assert held >= 930, (seeds, weight)


def test_ratios_hold_what_was_planted_also_near_nothing() -> None:
    """40 % of a gap of 0.5 to 20 deviations of a seed; where it is small most cannot be said, which is no error.

    The gap and the gain are over the same baseline, as in a study.
    """
    random = np.random.default_rng(1)
    said: list[int] = []
    for gap in (0.5, 3.0, 20.0):
        held = told = 0
        for _ in range(1000):
            base, student_ = random.normal(size=3), 0.4 * gap + random.normal(size=3)
            by_images = 0.5 * random.normal(size=3)  # of baseline, student and teacher
            tops, bottoms = student_ - base + by_images[1] - by_images[0], gap - base + by_images[2] - by_images[0]
            found = ratio([float(x) for x in tops], [float(x) for x in bottoms], (0.5, 0.5, 0.25))
            told += found is not None
            held += found is not None and found.low <= 0.4 <= found.high
        said.append(told)
        assert told - held <= 70, gap
    assert said[0] < 100 and said[2] > 990
