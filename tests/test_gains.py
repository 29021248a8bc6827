"""Intervals over seeds and images hold what was planted; nobody wins where all are alike; resamples add up counts."""

import numpy as np
import pytest

from segdistill.gains import Scores, class_ious, draw, mean_iou, verdict
from segdistill.intervals import student

# Two images of four pixels, two classes: labels 0001 and 0000, called 0001 and 0001 (METHODS of Cityscapes: .678571).
TWO = np.array([[[3, 1], [3, 1], [3, 1]], [[3, 0], [4, 0], [3, 1]]], np.uint32)
FREQUENT = np.array([0.45, 0.3, 0.2, 0.05])


def test_iou_is_of_sums_of_counts() -> None:
    """Both images, one of them twice, and one of them alone: 6/7 and 1/2, 3/4 and 0, 1 and 1."""
    ious = class_ious(TWO, np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]]))
    assert ious == pytest.approx(np.array([[6 / 7, 1 / 2], [3 / 4, 0], [1, 1]]))
    assert mean_iou(ious) == pytest.approx(np.array([0.678571, 0.375, 1]), abs=1e-6)
    nowhere = class_ious(TWO * np.array([1, 0], np.uint32), np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert np.isnan(nowhere).tolist() == [[False, True], [True, True]]
    assert mean_iou(nowhere)[0] == 6 / 7 and np.isnan(mean_iou(nowhere)[1])


def test_every_draw_is_of_as_many_images_and_the_same_every_time() -> None:
    drawn = draw(7, 50)
    assert drawn.shape == (50, 7) and set(drawn.sum(1)) == {7} and np.array_equal(drawn, draw(7, 50))


def test_differences_are_paired_by_seed_and_draw() -> None:
    one = Scores({0: 5.0, 1: 7.0, 2: 0.0}, {s: np.array([1.0, 2.0, 4.0]) * (s + 1) for s in range(3)}, 9)
    other = Scores({1: 4.0, 0: 3.0}, {s: np.array([1.0, 1.0, 1.0]) for s in range(2)}, 9)
    gain = one - other
    assert gain.by_seed == {0: 2.0, 1: 3.0} and gain.draws[1].tolist() == [1.0, 3.0, 7.0]
    # Means of the draws: 0.5, 2, 5; variance 21 / 4, · 9 / 8 for nine images, · (t / z)².
    wider = (student(0.05, 8) / 1.959964) ** 2
    assert gain.covariance(gain) == pytest.approx(21 / 4 * 9 / 8 * wider, rel=1e-6)
    assert (one - Scores({0: 1.0})).images == 0 and Scores({0: 1.0}).covariance(one) == 0
    assert Scores({3: 2.0}, {3: np.ones(3)}, 9).same_for([0, 1]).by_seed == {0: 2.0, 1: 2.0}


def measured(random: np.random.Generator, labels: np.ndarray, skill: np.ndarray) -> np.ndarray:
    """Counts of a network that finds a share of each class of each image; the rest goes to the frequent ones."""
    hits = np.rint(labels / (1 + np.exp(-skill))).astype(np.int64)
    wrong = np.rint((labels - hits).sum(1, keepdims=True) * FREQUENT).astype(np.int64)
    return np.stack([hits, labels, hits + wrong], 1)


def miou(counts: np.ndarray) -> float:
    return float(mean_iou(class_ious(counts, np.ones((1, len(counts)))))[0])


@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_image"), [(2, 0.1, 0.5), (3, 0.1, 0.3), (3, 0.0, 0.6), (5, 0.02, 0.6)]
)
def test_intervals_of_gains_hold_what_was_planted(seeds: int, by_seed: float, by_image: float) -> None:
    """A thousand comparisons on 80 images, of which each network likes others; a class is in every third.

    Both networks come from one source: the gain over all images and seeds is 0. Images of rare classes are few, so a
    little less than 95 % is what can be had. Seeds alone say nothing of images: their intervals miss it.
    """
    random, drawn = np.random.default_rng(seeds), draw(80, 100)
    held = alone = 0
    for _ in range(1000):
        there = random.random((80, 4)) < (1, 0.9, 0.7, 0.3)
        labels = (random.gamma(2.0, 2000, (80, 4)) * FREQUENT * there).astype(np.int64)
        hard, liked = random.normal(0, 0.5, (80, 4)), by_image * random.normal(size=(2, 80, 4))
        pair: list[Scores] = []
        for network in range(2):
            skills = [np.array([3, 2.5, 2, 0.5]) + by_seed * random.normal(size=4) for _ in range(seeds)]
            counts = [measured(random, labels, skill + hard + liked[network]) for skill in skills]
            draws = {seed: mean_iou(class_ious(each, drawn)) for seed, each in enumerate(counts)}
            pair.append(Scores({seed: miou(each) for seed, each in enumerate(counts)}, draws, 80))
        mean, half = (pair[1] - pair[0]).interval()
        _, narrow = (Scores(pair[1].by_seed) - Scores(pair[0].by_seed)).interval()
        assert half is not None and narrow is not None
        held += abs(mean) <= half
        alone += abs(mean) <= narrow
    print(f"{seeds} seeds: {held / 10:.1f} % with images, {alone / 10:.1f} % without")
    assert held >= 930
    assert alone < held and (by_seed > 0.05 or alone < 700)


def arms(
    random: np.random.Generator, means: list[float], seeds: int, by_image: float, drawn: np.ndarray
) -> dict[str, Scores]:
    """Arms whose seeds have a deviation of 1, a part of it in common, on images that each likes otherwise."""
    common = random.normal(size=seeds)
    found: dict[str, Scores] = {}
    for place, mean in enumerate(means):
        images = by_image * random.normal(size=drawn.shape[1])
        values = mean + images.mean() + common + random.normal(size=seeds)
        draws = drawn @ images / drawn.shape[1]
        by_seed = {seed: float(value) for seed, value in enumerate(values)}
        found[f"arm{place}"] = Scores(by_seed, dict.fromkeys(by_seed, draws), drawn.shape[1])
    return found


@pytest.mark.parametrize(
    ("seeds", "by_image", "count"), [(3, 0.0, 6), (3, 3.0, 6), (2, 3.0, 6), (5, 1.0, 4), (3, 0.0, 2)]
)
def test_nobody_wins_where_all_are_alike(seeds: int, by_image: float, count: int) -> None:
    """In more than 5 % of a thousand studies; neither is anyone called better or worse than the baseline."""
    random, drawn = np.random.default_rng(7), draw(50, 40)
    won = differed = 0
    for _ in range(1000):
        found = verdict(arms(random, [0.0] * count, seeds, by_image, drawn), "arm0")
        won += found.best is not None
        differed += found.best is not None or bool(found.better or found.worse)
    print(f"{count} arms, {seeds} seeds: a winner in {won / 10:.1f} %, anything decided in {differed / 10:.1f} %")
    assert won <= 50 and differed <= 50


def test_of_two_that_are_alike_at_the_top_none_wins() -> None:
    """But in 5 %, which two arms that are alike reach: 64 of a thousand is two deviations above."""
    random, drawn = np.random.default_rng(8), draw(50, 40)
    found = [verdict(arms(random, [0, 90, 90, 60], 3, 3.0, drawn), "arm0") for _ in range(1000)]
    won = sum(each.best is not None for each in found)
    print(f"two alike at the top: a winner in {won / 10:.1f} %")
    assert won <= 64
    assert sum(set(each.better) == {"arm1", "arm2", "arm3"} for each in found) > 950


def test_who_is_far_ahead_wins_and_who_is_behind_is_worse() -> None:
    random, drawn = np.random.default_rng(9), draw(50, 40)
    found = verdict(arms(random, [0, 60, 0, -60], 3, 1.0, drawn), "arm0")
    assert found == (["arm1"], ["arm3"], ["arm2"], "arm1")
    assert verdict(arms(random, [60, 0, 0, 0], 3, 1.0, drawn), "arm0").best == "arm0"  # the baseline itself
    one = {name: Scores({0: each.by_seed[0]}) for name, each in arms(random, [0, 60], 2, 0.0, drawn).items()}
    assert verdict(one, "arm0") == ([], [], ["arm1"], None)  # one seed decides nothing
