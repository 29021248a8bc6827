"""Standardised logits: the number of the fixture, a loop around Python's statistics, and what standardising removes."""

import math
from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from segdistill.losses.standardised_logits import StandardisedLogits
from segdistill.mistakes import Mistake

# Two pixels of three classes.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)


def value(temperature: float, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return StandardisedLogits(temperature)(student, target, torch.zeros(shape, dtype=torch.int64), mask)


def random_example() -> tuple[Tensor, Tensor, Tensor]:
    """Student, target and a mask."""
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target, torch.rand(2, 4, 6, generator=generator) < 0.6


def test_fixture() -> None:
    """With the unbiased deviation; the one of the population gives 0.233485."""
    assert float(value(2.0, STUDENT, TARGET)) == pytest.approx(0.169653, abs=5e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_agrees_with_a_loop(temperature: float) -> None:
    student, target, mask = random_example()
    total = 0.0
    for b, y, x in mask.nonzero().tolist():
        powers: list[list[float]] = []
        for logits in (student, target):
            z = logits[b, :, y, x].tolist()
            powers.append([math.exp((v - fmean(z)) / (stdev(z) + 1e-7) / temperature) for v in z])
        s, t = powers
        total += sum(v / sum(t) * math.log(v / sum(t) * sum(s) / u) for u, v in zip(s, t, strict=True))
    expected = temperature**2 * total / int(mask.sum())
    assert float(value(temperature, student, target, mask)) == pytest.approx(expected, rel=1e-10)


def test_a_pixels_logits_may_be_scaled_and_shifted() -> None:
    student, target, mask = random_example()
    before = value(2.0, student, target, mask)
    generator = torch.Generator().manual_seed(1)
    scale, shift = (0.5 + torch.rand(2, 1, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(value(2.0, scale * student + shift, target, mask), before, rtol=1e-6, atol=0)
    torch.testing.assert_close(value(2.0, student, scale * target + shift, mask), before, rtol=1e-6, atol=0)
    assert abs(float(value(2.0, 3 * target + 5, target, mask))) < 1e-12
    assert float(value(2.0, -target, target, mask)) > 1


def test_standardised_over_classes_and_no_other_axis() -> None:
    """A scale for every pixel changes nothing; one for every class (as over the width, in one code) does."""
    _, target, mask = random_example()
    by_class = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64).view(1, 5, 1, 1)
    assert float(value(2.0, by_class * target, target, mask)) > 0.04


@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e-6])
def test_logits_that_hardly_differ_do_not_explode(spread: float) -> None:
    """The deviation is at least 1e-3: the gradient is at most a thousand times that of soft targets, never NaN."""
    student, target, mask = random_example()
    student = (spread * student).requires_grad_()
    loss = value(2.0, student, target, mask)
    (gradient,) = torch.autograd.grad(loss, student)
    log_q = ((target - target.mean(1, keepdim=True)) / target.std(1, keepdim=True) / 2).log_softmax(1)
    uniform = 4 * (math.log(5) + float((log_q.exp() * log_q).sum(1)[mask].mean()))
    assert float(loss.detach()) == pytest.approx(uniform, abs=1e4 * spread + 1e-6)
    assert 0 < float(gradient.abs().max()) * int(mask.sum()) <= 2 * 1e3  # T·(p − q) / 1e-3


@pytest.mark.parametrize("there", [1e30, torch.inf, torch.nan])
def test_what_stands_at_a_masked_pixel_does_not_change_the_value(there: float) -> None:
    student, target, mask = random_example()
    masked = ~mask[:, None].expand_as(student)
    changed = value(2.0, torch.where(masked, there, student), torch.where(masked, there, target), mask)
    assert torch.equal(changed, value(2.0, student, target, mask))


def test_zero_at_equality() -> None:
    student, _, mask = random_example()
    assert float(value(2.0, student, student, mask)) == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(Mistake, match=rf"^temperature: expected more than 0, got {temperature}$"):
        StandardisedLogits(temperature)
