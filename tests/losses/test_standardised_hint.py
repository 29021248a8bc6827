"""Standardised hints: the fixture, a loop from the formula, Pearson's correlation, channels without variance."""

from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from segdistill.losses.standardised_hint import StandardisedHint

# Two channels of 2×2 cells.
STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]


def value(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return StandardisedHint()(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_pair(shape: tuple[int, ...] = (2, 5, 4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target


def random_mask() -> Tensor:
    return torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6


def test_fixture() -> None:
    """With the unbiased deviation; the population's gives 4/3 of it."""
    assert float(value(STUDENT, TARGET)) == pytest.approx(0.423603, abs=5e-7)


def test_agrees_with_a_loop() -> None:
    student, target = random_pair()
    mask = random_mask()
    squares: list[float] = []
    for c in range(5):
        s = [float(student[b, c, y, x]) for b, y, x in mask.nonzero().tolist()]
        t = [float(target[b, c, y, x]) for b, y, x in mask.nonzero().tolist()]
        for a, b in zip(s, t, strict=True):
            squares.append(((a - fmean(s)) / (stdev(s) + 1e-6) - (b - fmean(t)) / (stdev(t) + 1e-6)) ** 2)
    assert float(value(student, target, mask)) == pytest.approx(sum(squares) / len(squares) / 2, rel=1e-9)


def test_is_one_minus_pearsons_correlation() -> None:
    student, target = random_pair()
    mask = random_mask()
    cells = int(mask.sum())
    correlations = [torch.corrcoef(torch.stack([student[:, c][mask], target[:, c][mask]]))[0, 1] for c in range(5)]
    expected = (1 - torch.stack(correlations).mean()) * (cells - 1) / cells
    torch.testing.assert_close(value(student, target, mask), expected, rtol=1e-5, atol=0)


def test_scale_and_offset_of_a_channel_change_nothing() -> None:
    """What `hint` cannot do: the student need not have the target's range."""
    student, target = random_pair()
    scale = torch.tensor([0.1, 1, 5, 20, 300], dtype=torch.float64).view(1, 5, 1, 1)
    shift = torch.tensor([0, -3, 7, 100, -40], dtype=torch.float64).view(1, 5, 1, 1)
    torch.testing.assert_close(value(student * scale + shift, target), value(student, target), rtol=1e-4, atol=0)
    assert float(value(target * scale + shift, target)) == pytest.approx(0, abs=1e-9)


def test_opposite_channels_are_two() -> None:
    _, target = random_pair()
    cells = target[:, 0].numel()
    assert float(value(-target, target)) == pytest.approx(2 * (cells - 1) / cells, rel=1e-5)


def test_statistics_are_of_the_batch() -> None:
    """Over images and cells: an image's own offset is information, not noise."""
    student, target = random_pair()
    student[1] += 50
    assert float(value(student, target)) != pytest.approx(
        float(value(student[:1], target[:1]) + value(student[1:], target[1:])) / 2, rel=0.05
    )


@pytest.mark.parametrize("constant", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_channel_without_variance_is_finite(constant: float, dtype: torch.dtype) -> None:
    student, target = (x.to(dtype) for x in random_pair())
    student[:, 0] = constant
    target[:, 1] = constant
    answer = value(student.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer.isfinite() and gradient.isfinite().all()
    assert gradient[:, 1].abs().max() < 1e-5  # a dead target channel moves nobody


def test_a_dead_target_channel_costs_a_half() -> None:
    student, target = random_pair((2, 1, 4, 6))
    cells = student.numel()
    assert float(value(student, torch.zeros_like(target))) == pytest.approx((cells - 1) / cells / 2, rel=1e-5)


def test_one_counting_cell_has_no_variance() -> None:
    student, target = random_pair()
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[0, 0, 0] = True
    answer = value(student.requires_grad_(), target, mask)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer == 0 and not gradient.any()


def test_overflow_in_padding_is_no_nan() -> None:
    student, target = random_pair()
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0, 0] = False
    expected = value(student, target, mask)
    student[0, :, 0], target[0, :, 0] = torch.inf, -torch.inf
    answer = value(student.requires_grad_(), target, mask)
    (gradient,) = torch.autograd.grad(answer, student)
    torch.testing.assert_close(answer.detach(), expected, rtol=1e-12, atol=0)
    assert gradient.isfinite().all() and not gradient[0, :, 0].any()
