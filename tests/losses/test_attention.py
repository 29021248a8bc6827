"""Attention transfer: the numbers of the fixture, a loop written from the formula, bounds and invariances."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.attention import Attention

# Two channels of 2×2 cells.
STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]


def value(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return Attention()(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_pair(channels: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    return student, torch.randn(3, channels, 4, 6, generator=generator, dtype=torch.float64)


def random_mask() -> Tensor:
    return torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6


def test_fixture() -> None:
    assert float(value(STUDENT, TARGET)) == pytest.approx(0.618447, abs=5e-7)


def test_fixture_in_the_units_of_the_code_and_of_the_paper() -> None:
    """The mean over the four cells, and the distance that is not squared."""
    assert float(value(STUDENT, TARGET)) / 4 == pytest.approx(0.154612, abs=5e-7)
    assert math.sqrt(float(value(STUDENT, TARGET))) == pytest.approx(0.786414, abs=5e-7)


@pytest.mark.parametrize("channels", [5, 2])
def test_agrees_with_a_loop(channels: int) -> None:
    student, target = random_pair(channels)
    mask = random_mask()
    total = 0.0
    for b in range(3):
        cells = mask[b].nonzero().tolist()
        s, t = ([sum(float(v) ** 2 for v in x[b, :, i, j]) / x.shape[1] for i, j in cells] for x in (student, target))
        length_s, length_t = (math.sqrt(sum(v * v for v in x)) for x in (s, t))
        total += sum((a / length_s - b / length_t) ** 2 for a, b in zip(s, t, strict=True))
    assert float(value(student, target, mask)) == pytest.approx(total / 3, rel=1e-10)


def test_the_scale_of_either_map_changes_nothing() -> None:
    student, target = random_pair()
    torch.testing.assert_close(value(7 * student, -0.1 * target), value(student, target), rtol=1e-10, atol=0)


def test_the_order_and_sign_of_channels_change_nothing() -> None:
    student, target = random_pair()
    torch.testing.assert_close(value(-student.roll(2, 1), target), value(student, target), rtol=1e-10, atol=0)
    assert float(value(-target.flip(1), target)) == pytest.approx(0, abs=1e-12)


def test_maps_that_never_meet_are_two() -> None:
    student, target = torch.zeros(2, 1, 1, 4, 6, dtype=torch.float64)
    student[..., :3], target[..., 3:] = 1, 5
    assert float(value(student, target)) == pytest.approx(2, rel=1e-12)


def test_a_finer_stage_has_no_other_value() -> None:
    """The mean over cells of the authors' code falls with their number."""
    student, target = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in random_pair())
    torch.testing.assert_close(value(student, target), value(*random_pair()), rtol=1e-10, atol=0)


def test_cells_are_left_out_before_the_length_is_taken() -> None:
    """Multiplying the unit maps by the mask would leave the padding in their length."""
    student, target = random_pair()
    mask = random_mask()
    padded = torch.where(mask[:, None], student, 100.0)
    torch.testing.assert_close(value(padded, target, mask), value(student, target, mask), rtol=1e-10, atol=0)


def test_images_without_a_counting_cell_leave_the_mean() -> None:
    student, target = random_pair()
    mask = torch.ones(3, 4, 6, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(value(student, target, mask), value(student[::2], target[::2]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_that_is_all_zero_has_a_finite_gradient(dtype: torch.dtype) -> None:
    student, target = (x.to(dtype) for x in random_pair())
    student[0] = 0
    target[1] = 0
    answer = value(student.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer.isfinite() and gradient.isfinite().all()
    assert not gradient[0].any() and gradient[2].any()
