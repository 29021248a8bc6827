"""Confidence penalty and entropy floor: METHODS' numbers, a loop, entropy's gradient, what is left alone."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses._entropy import entropy
from segdistill.losses.confidence_penalty import ConfidencePenalty
from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.entropy_floor import EntropyFloor
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 3


def pixel(*logits: float) -> Tensor:
    return torch.tensor(logits, dtype=torch.float64).view(1, -1, 1, 1)


LABEL = torch.zeros(1, 1, 1, dtype=torch.int64)
EVERY = torch.ones(1, 1, 1, dtype=torch.bool)


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, K, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def of(logits: Tensor) -> float:
    """The entropy of one pixel, a loop."""
    z = [math.exp(float(value)) for value in logits]
    return -sum(v / sum(z) * math.log(v / sum(z)) for v in z)


def test_the_papers_equation_on_one_pixel() -> None:
    """CE − β·H(p) of z = (2, 0, −1), label 0, β = 0.1."""
    logits = pixel(2, 0, -1)
    assert float(entropy(logits)) == pytest.approx(0.524267, abs=5e-7)
    ours = CrossEntropy(num_classes=K, class_pixels=[1] * K)(logits, LABEL, LABEL, EVERY)
    ours = ours + 0.1 * ConfidencePenalty()(logits, LABEL, LABEL, EVERY)
    assert float(ours) - 0.1 * math.log(K) == pytest.approx(0.117419, abs=5e-7)


def test_agrees_with_a_loop() -> None:
    logits, labels, mask = example()
    pixels = (mask & (labels != IGNORE)).nonzero().tolist()
    entropies = [of(logits[b, :, y, x]) for b, y, x in pixels]
    penalty = sum(math.log(K) - each for each in entropies) / len(pixels)
    assert float(ConfidencePenalty()(logits, labels, labels, mask)) == pytest.approx(penalty, rel=1e-12)
    for floor in (0.2, 0.6, math.log(K)):
        expected = sum(max(0.0, floor - each) for each in entropies) / len(pixels)
        ours = EntropyFloor(floor, num_classes=K)(logits, labels, labels, mask)
        assert float(ours) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_entropy() -> None:
    logits = example()[0].requires_grad_()
    assert torch.autograd.gradcheck(entropy, logits)


def test_nothing_is_wrong_with_knowing_nothing() -> None:
    logits = torch.full((1, K, 1, 1), 7.0, dtype=torch.float64)
    for loss in (ConfidencePenalty(), EntropyFloor(1.0, num_classes=K)):
        assert float(loss(logits, LABEL, LABEL, EVERY)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_pixel_has_the_whole_penalty_and_no_nan(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.0, -2000.0, -3000.0], dtype=dtype).view(1, 3, 1, 1).requires_grad_()
    value = ConfidencePenalty()(logits, LABEL, LABEL, EVERY)
    assert float(value.detach()) == pytest.approx(math.log(K), rel=1e-6)
    (slope,) = torch.autograd.grad(value, logits)
    assert slope.isfinite().all() and slope.abs().max() < 1e-6


def test_above_the_floor_a_pixel_is_left_alone() -> None:
    """The entropy of the first pixel is 0.524, of the second 0.0018: only that one is pushed."""
    logits = torch.cat([pixel(2, 0, -1), pixel(9, 0, 0)], 3).requires_grad_()
    labels, every = LABEL.expand(1, 1, 2), EVERY.expand(1, 1, 2)
    value = EntropyFloor(0.5, num_classes=K)(logits, labels, labels, every)
    (slope,) = torch.autograd.grad(value, logits)
    assert not slope[..., 0].any() and slope[0, 0, 0, 1] > 0 > slope[0, 1, 0, 1]


@pytest.mark.parametrize("floor", [0.0, -1.0, 1.2])
def test_a_floor_that_no_output_can_reach(floor: float) -> None:
    with pytest.raises(Mistake, match=r"floor: expected 0 < nats <= ln 3 = 1\.099"):
        EntropyFloor(floor, num_classes=K)
