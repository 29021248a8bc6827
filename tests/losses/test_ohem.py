"""The hardest pixels: which are kept, and that their mean is the cross entropy's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.ohem import Ohem
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 4
WEIGHTS = [0.5, 2.0, 1.0, 3.0]


def build(threshold: float = 0.7, min_kept: int = 1, class_weights: list[float] | None = None, k: int = K) -> Ohem:
    facts = {"num_classes": k, "class_pixels": [1] * k, "class_image_pixels": [k] * k}
    return Ohem(threshold, min_kept, class_weights, **facts)  # pyright: ignore[reportArgumentType]


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def of_probabilities(*probabilities: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes; every pixel is of the first, which has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    logits = torch.stack([p, 1 - p]).log().view(1, 2, 1, -1)
    labels = torch.zeros(1, 1, len(p), dtype=torch.int64)
    return logits, labels, labels == 0


def kept(loss: Ohem, logits: Tensor, labels: Tensor, mask: Tensor) -> list[bool]:
    """Which pixels have a gradient."""
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels, labels, mask), logits)
    return gradient.abs().sum(1).gt(0).flatten().tolist()


@pytest.mark.parametrize(
    ("min_kept", "expected"),
    [(1, [0.6, 0.3]), (2, [0.6, 0.3]), (3, [0.8, 0.6, 0.3]), (4, [0.9, 0.8, 0.6, 0.3]), (9, [0.9, 0.8, 0.6, 0.3])],
)
def test_by_hand(min_kept: int, expected: list[float]) -> None:
    probabilities = (0.9, 0.8, 0.6, 0.3)
    given, loss = of_probabilities(*probabilities), build(0.7, min_kept, k=2)
    value = loss(given[0], given[1], *given[1:])
    assert float(value) == pytest.approx(-sum(map(math.log, expected)) / len(expected), rel=1e-12)
    assert kept(loss, *given) == [p in expected for p in probabilities]


def test_the_threshold_itself_is_kept() -> None:
    assert kept(build(0.5, 1, k=2), *of_probabilities(0.5, 0.25, 0.75)) == [True, True, False]


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [1, 10, 30, 100_000])
def test_agrees_with_a_loop(threshold: float, min_kept: int, class_weights: list[float] | None) -> None:
    logits, labels, mask = example()
    pixels: list[tuple[float, int]] = []
    for b, y, x in (mask & (labels != IGNORE)).nonzero().tolist():
        label = int(labels[b, y, x])
        pixels.append((float(logits[b, :, y, x].softmax(0)[label]), label))
    pixels.sort()
    limit = max(threshold, pixels[min(min_kept, len(pixels)) - 1][0])
    hard = [(p, (class_weights or [1.0] * K)[label]) for p, label in pixels if p <= limit]
    expected = -sum(weight * math.log(p) for p, weight in hard) / sum(weight for _, weight in hard)
    ours = build(threshold, min_kept, class_weights)(logits, labels, labels, mask)
    assert float(ours) == pytest.approx(expected, rel=1e-12)


def test_a_pixel_that_does_not_count_takes_no_place() -> None:
    """Neither of the hardest `min_kept`, however wrong it is."""
    logits, labels, mask = of_probabilities(0.99, 0.9, 0.95, 1e-30)
    labels[..., 1] = IGNORE
    mask[..., 3] = False
    assert kept(build(0.7, 1, k=2), logits, labels, mask) == [False, False, True, False]


def test_fewer_labelled_pixels_than_the_least_number_are_all_kept() -> None:
    """Then it is the cross entropy, in value and gradient."""
    logits, labels, mask = example()
    logits.requires_grad_()
    plain = CrossEntropy(num_classes=K, class_pixels=[1] * K)(logits, labels, labels, mask)
    ours = build(0.1, int((mask & (labels != IGNORE)).sum()))(logits, labels, labels, mask)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, plain)))


def test_the_choice_has_no_gradient() -> None:
    logits, labels, mask = example()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(build(0.3, 5)(logits, labels, labels, mask), logits)
    chosen = kept(build(0.3, 5), logits.detach(), labels, mask)
    fixed = F.cross_entropy(logits, labels.where(torch.tensor(chosen).view_as(labels), IGNORE), ignore_index=IGNORE)
    torch.testing.assert_close(gradient, torch.autograd.grad(fixed, logits)[0], rtol=1e-10, atol=1e-14)


def test_weights_play_no_part_in_the_choice() -> None:
    given = example()
    plain, weighted = (kept(build(0.2, 7, weights), *given) for weights in (None, [9.0, 0.1, 5.0, 1.0]))
    assert plain == weighted and 7 <= sum(plain) < 40


def test_it_never_is_below_the_cross_entropy() -> None:
    logits, labels, mask = example()
    values = [float(build(0.01, n)(logits, labels, labels, mask)) for n in (1, 5, 20, 1000)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(Mistake, match=rf"^threshold: expected 0 < p <= 1, got {threshold}$"):
        build(threshold)


def test_no_least_number() -> None:
    with pytest.raises(Mistake, match=r"^min_kept: expected at least 1 pixel, got 0$"):
        build(min_kept=0)
