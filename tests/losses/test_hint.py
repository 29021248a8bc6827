"""Hints: the number of the fixture, a loop written from the formula, and what makes it one weight for every shape."""

import pytest
import torch
from torch import Tensor

from segdistill.losses.hint import Hint

# Two channels of 2×2 cells.
STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]


def value(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return Hint()(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_pair(shape: tuple[int, ...] = (2, 5, 4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target


def test_fixture() -> None:
    assert float(value(STUDENT, TARGET)) == pytest.approx(0.281250, abs=5e-7)


def test_half_the_sum_of_the_paper() -> None:
    """Eq. 3 is ½‖·‖²: the mean times the elements over two."""
    assert float(value(STUDENT, TARGET)) * STUDENT.numel() / 2 == pytest.approx(1.125, abs=5e-7)


def test_agrees_with_a_loop() -> None:
    student, target = random_pair()
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    squares = [
        float(student[b, c, y, x] - target[b, c, y, x]) ** 2 for b, y, x in mask.nonzero().tolist() for c in range(5)
    ]
    assert float(value(student, target, mask)) == pytest.approx(sum(squares) / len(squares), rel=1e-10)


def test_gradient_as_the_formula() -> None:
    student, target = random_pair()
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    (gradient,) = torch.autograd.grad(value(student.requires_grad_(), target, mask), student)
    expected = 2 * (student - target) * mask[:, None] / (5 * mask.sum())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_goes_with_the_square_of_the_scale() -> None:
    student, target = random_pair()
    torch.testing.assert_close(value(3 * student, 3 * target), 9 * value(student, target), rtol=1e-10, atol=0)


def test_more_channels_or_cells_are_no_larger_value() -> None:
    student, target = random_pair()
    once = value(student, target)
    for repeats in ((1, 3, 1, 1), (1, 1, 2, 1), (4, 1, 1, 1)):
        torch.testing.assert_close(value(student.repeat(repeats), target.repeat(repeats)), once, rtol=1e-10, atol=0)


def test_overflow_in_padding_is_no_nan() -> None:
    student, target = random_pair()
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0, 0] = False
    expected = value(student, target, mask)
    student[0, :, 0], target[0, :, 0] = torch.inf, torch.inf
    answer = value(student.requires_grad_(), target, mask)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer == expected
    assert gradient.isfinite().all() and not gradient[0, :, 0].any()
