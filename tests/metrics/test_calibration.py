"""Calibration: against loops over pixels in float64, the example of the text, and what must not change it."""

import math
import resource
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segdistill.metrics.calibration import CELLS, PIXELS, SPAN, Calibration
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 4
LISTS = ("confidence", "accuracy", "share")


def drawn(seed: int, images: int = 3, size: tuple[int, int] = (9, 11), k: int = K) -> tuple[Tensor, Tensor]:
    """(float64 logits, labels with void); a network that is right more often than not, and surer than that."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (images, *size), generator=random)
    logits = 3 * torch.randn(images, k, *size, generator=random, dtype=torch.float64)
    logits += 2 * torch.nn.functional.one_hot(labels, k).movedim(-1, 1)
    labels[torch.rand(labels.shape, generator=random) < 0.15] = IGNORE
    return logits, labels


def seen(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    metric = Calibration(bins, num_classes=logits.shape[1])
    metric.update(logits, labels)
    return metric


def numbers(metric: Calibration) -> dict[str, float]:
    return {name: value for name, value in metric.result().items() if isinstance(value, float)}


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """(probabilities, label) of every labelled pixel."""
    flat = logits.softmax(1).movedim(1, -1).reshape(-1, logits.shape[1]).tolist()
    return [(p, y) for p, y in zip(flat, labels.flatten().tolist(), strict=True) if y != IGNORE]


def binned_error(pairs: Sequence[tuple[float, float]], bins: int) -> float:
    """Σ_b (n_b / n) |truth − promise| of (promise, truth), bins (low, high]."""
    total = 0.0
    for b in range(bins):
        inside = [(p, t) for p, t in pairs if b / bins < p <= (b + 1) / bins]
        if inside:
            total += abs(sum(t - p for p, t in inside))
    return total / len(pairs)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_loops_over_the_pixels(bins: int) -> None:
    logits, labels = drawn(0)
    known = pixels(logits, labels)
    found = seen(logits, labels, bins).result()
    top = [(max(p), float(p.index(max(p)) == y)) for p, y in known]
    expected = {
        "nll": -sum(math.log(p[y]) for p, y in known) / len(known),
        "brier": sum(sum((q - (k == y)) ** 2 for k, q in enumerate(p)) for p, y in known) / len(known),
        "entropy": -sum(sum(q * math.log(q) for q in p) for p, _ in known) / len(known),
        "ece": binned_error(top, bins),
        "classwise_ece": sum(binned_error([(p[k], float(y == k)) for p, y in known], bins) for k in range(K)) / K,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    rows = zip(*(found[name] for name in LISTS if isinstance(found[name], list)), strict=True)  # pyright: ignore
    for b, (confidence, accuracy, share) in enumerate(rows):
        inside = [(p, t) for p, t in top if b / bins < p <= (b + 1) / bins]
        assert share == len(inside) / len(top)
        if inside:
            assert confidence == pytest.approx(sum(p for p, _ in inside) / len(inside), rel=1e-12)
            assert accuracy == pytest.approx(sum(t for _, t in inside) / len(inside), rel=1e-12)
        else:
            assert math.isnan(confidence) and math.isnan(accuracy)


def test_the_example_of_the_text() -> None:
    """METHODS C2: (confidence, right) = (.9, 1), (.8, 0), (.6, 1), (.55, 1) in 10 bins."""
    p = torch.tensor([0.9, 0.8, 0.6, 0.55], dtype=torch.float64)
    logits = torch.stack([p, 1 - p]).log()[None, :, None]
    assert seen(logits, torch.tensor([[[0, 1, 0, 0]]]), 10).result()["ece"] == pytest.approx(0.4375, abs=1e-12)


def test_equal_mass_is_that_of_sorted_pixels_within_the_stated_bound() -> None:
    logits, labels = drawn(1, 4, (40, 50))
    bins, metric = 15, seen(logits, labels)
    top = sorted((max(p), float(p.index(max(p)) == y)) for p, y in pixels(logits, labels))
    conf, right = torch.tensor(top, dtype=torch.float64).unbind(1)
    total = torch.cat([torch.zeros(1), (right - conf).cumsum(0)]).double()
    places = torch.linspace(0, len(top), bins + 1, dtype=torch.float64)
    low = places.floor().long().clamp(max=len(top) - 1)
    exact = float(torch.lerp(total[low], total[low + 1], places - low).diff().abs().sum()) / len(top)
    cells = (-torch.log1p(-conf) * CELLS / SPAN).int().bincount()
    cut = {int((cells.cumsum(0) >= place).nonzero()[0]) for place in places[1:-1]}
    bound = 2 * sum(int(cells[cell]) for cell in cut) / len(top)
    assert 0 < bound < 0.05
    assert abs(numbers(metric)["adaptive_ece"] - exact) <= bound
    assert numbers(metric)["adaptive_ece"] == pytest.approx(exact, abs=2e-3) and exact > 0.05


def test_one_bin_of_equal_mass_is_one_bin() -> None:
    found = numbers(seen(*drawn(2), bins=1))
    assert found["adaptive_ece"] == pytest.approx(found["ece"], rel=1e-9)


def test_two_halves_are_the_whole() -> None:
    logits, labels = drawn(3)
    whole, parts = seen(logits, labels), seen(logits[:1], labels[:1]) + seen(logits[1:], labels[1:])
    streamed = Calibration(num_classes=K)
    for image, truth in zip(logits, labels, strict=True):
        streamed.update(image[None], truth[None])
    for other in (parts, streamed):
        assert torch.equal(other.counts, whole.counts) and torch.equal(other.occurs, whole.occurs)
        assert torch.equal(other.cells, whole.cells)
        assert numbers(other) == pytest.approx(numbers(whole), rel=1e-12)


def test_many_pixels_are_counted_exactly() -> None:
    """The same images 3^20 times."""
    logits, labels = drawn(3)
    once = total = seen(logits / 2, labels)  # too sure in some bins, too modest in others
    for _ in range(20):
        total = total + total + total
    assert int(total.counts[:, 0].sum()) == 3**20 * int(once.counts[:, 0].sum())
    assert numbers(total) == pytest.approx(numbers(once), rel=1e-12)


def test_calibration_of_the_whole_is_no_mean_over_images() -> None:
    """One image too sure by as much as the other is too modest: together they are right."""
    p = 0.7
    logits = torch.tensor([p, 1 - p], dtype=torch.float64).log()[None, :, None, None].expand(1, 2, 1, 10)
    labels = torch.tensor([[[0] * 10]]), torch.tensor([[[0] * 4 + [1] * 6]])
    alone = [seen(logits, each) for each in labels]
    assert [numbers(each)["ece"] for each in alone] == pytest.approx([0.3, 0.3])
    assert numbers(alone[0] + alone[1])["ece"] == pytest.approx(0.0, abs=1e-12)


def test_pixels_without_a_label_do_not_count() -> None:
    logits, labels = drawn(4)
    changed = torch.where((labels == IGNORE)[:, None], torch.full_like(logits, math.nan), logits)
    assert numbers(seen(changed, labels)) == numbers(seen(logits, labels))
    nothing = seen(logits, torch.full_like(labels, IGNORE))
    assert all(math.isnan(value) for value in numbers(nothing).values())
    assert numbers(nothing + seen(logits, labels)) == numbers(seen(logits, labels))


def test_one_who_is_surely_right_has_no_error() -> None:
    labels = torch.randint(0, K, (2, 5, 7), generator=torch.Generator().manual_seed(0))
    logits = 1000.0 * torch.nn.functional.one_hot(labels, K).movedim(-1, 1)
    assert numbers(seen(logits, labels)) == dict.fromkeys(
        ("nll", "brier", "ece", "adaptive_ece", "classwise_ece", "entropy"), 0.0
    )
    wrong = numbers(seen(logits, (labels + 1) % K))
    assert wrong["ece"] == wrong["adaptive_ece"] == 1.0 and wrong["brier"] == 2.0 and wrong["nll"] == 1000.0


def test_one_who_knows_nothing() -> None:
    labels = torch.arange(K).repeat(5)[None, None]
    found = numbers(seen(torch.zeros(1, K, 1, 20), labels))
    assert found["nll"] == pytest.approx(math.log(K)) and found["entropy"] == pytest.approx(math.log(K))
    assert found["ece"] == pytest.approx(0, abs=1e-12) and found["brier"] == pytest.approx(1 - 1 / K)
    edge = seen(torch.zeros(1, K, 1, 20), labels, bins=K)  # 1 / K ends the first bin
    assert edge.result()["share"] == [1, 0, 0, 0] and edge.occurs.sum(0).tolist() == [20, 0, 0, 0]


def test_a_constant_added_to_the_logits_of_a_pixel_changes_nothing() -> None:
    logits, labels = drawn(5)
    added = torch.randn(3, 1, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert numbers(seen(logits + added, labels)) == pytest.approx(numbers(seen(logits, labels)), rel=1e-9)


def test_logits_as_networks_have_them() -> None:
    """Half precision, channels last, uint8 labels, a class that was ruled out; and those that are not finite show."""
    logits, labels = drawn(6)
    expected = numbers(seen(logits.bfloat16().double(), labels))
    assert numbers(seen(logits.bfloat16(), labels.to(torch.uint8))) == pytest.approx(expected)
    last = logits.bfloat16().to(memory_format=torch.channels_last)
    assert numbers(seen(last, labels)) == pytest.approx(expected)
    ruled_out = logits.clone()
    ruled_out[:, 0] = -math.inf
    found = numbers(seen(ruled_out, labels))
    assert found["nll"] == math.inf and 0 < found["entropy"] < math.log(K - 1) and found["ece"] > 0
    logits[0, 0, 0, 0], labels[0, 0, 0] = math.nan, 0
    assert math.isnan(numbers(seen(logits, labels))["nll"])


def test_rows_are_looked_at_a_few_at_a_time() -> None:
    """Of an image that is many times what is looked at together the numbers are the same, and little is kept."""
    logits, labels = drawn(7, 1, (PIXELS // 32, 512))  # 16 times
    halves = seen(logits[..., :100, :], labels[:, :100]) + seen(logits[..., 100:, :], labels[:, 100:])
    assert numbers(seen(logits, labels)) == pytest.approx(numbers(halves), rel=1e-10)


@pytest.mark.slow
def test_a_large_image_takes_little_memory() -> None:
    logits = torch.randn(1, 19, 1024, 2048, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 1024, 2048, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen(logits, labels)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB; in float64 they are 319 MB


def test_no_bins() -> None:
    with pytest.raises(Mistake, match="bins: expected at least 1, got 0"):
        Calibration(0, num_classes=3)
