"""Pair-wise affinity: the fixtures, a loop over pairs, what it must not see, and what maximum pooling can get wrong."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.pairwise_affinity import PairwiseAffinity
from segdistill.mistakes import Mistake

STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]


def value(student: Tensor, target: Tensor, pool: int = 2, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(len(student), *student.shape[-2:], dtype=torch.bool) if mask is None else mask
    return PairwiseAffinity(pool)(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nodes_of(features: Tensor, mask: Tensor, pool: int) -> list[list[float]]:
    """Of one image: the channel-wise maxima, scaled to length 1."""
    c, height, width = features.shape
    nodes = list[list[float]]()
    for y in range(0, height, pool):
        for x in range(0, width, pool):
            window = [(i, j) for i in range(y, min(y + pool, height)) for j in range(x, min(x + pool, width))]
            cells = [(i, j) for i, j in window if mask[i, j]]
            if cells:
                node = [max(float(features[k, i, j]) for i, j in cells) for k in range(c)]
                length = math.sqrt(sum(v * v for v in node))
                nodes.append([v / length for v in node])
    return nodes


def loop(student: Tensor, target: Tensor, pool: int, mask: Tensor) -> float:
    images = list[float]()
    for s, t, m in zip(student, target, mask, strict=True):
        ours, theirs = nodes_of(s, m, pool), nodes_of(t, m, pool)
        pairs = [(a, b) for a in range(len(ours)) for b in range(len(ours))]
        squares = [
            (
                sum(u * v for u, v in zip(ours[a], ours[b], strict=True))
                - sum(u * v for u, v in zip(theirs[a], theirs[b], strict=True))
            )
            ** 2
            for a, b in pairs
        ]
        if pairs:
            images.append(sum(squares) / len(squares))
    return sum(images) / len(images)


def test_fixture_without_pooling() -> None:
    assert float(value(STUDENT, TARGET, pool=1)) == pytest.approx(0.146447, abs=5e-7)


def test_fixture_with_pooling() -> None:
    x = torch.arange(32, dtype=torch.float64).view(1, 2, 4, 4)
    assert float(value(x.sin(), x.cos())) == pytest.approx(0.032474, abs=5e-7)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_agrees_with_a_loop(pool: int) -> None:
    """5 × 7 cells: windows at the border are smaller; one image has a single cell, one has none; channels differ."""
    student, target = random(0, 4, 3, 5, 7), random(1, 4, 6, 5, 7)
    mask = torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[0, :4, :4] = False
    mask[1], mask[2] = False, False
    mask[1, 3, 3] = True
    assert float(value(student, target, pool, mask)) == pytest.approx(loop(student, target, pool, mask), rel=1e-10)


def test_a_mask_finer_than_the_features() -> None:
    student, target = random(0, 2, 3, 4, 6), random(1, 2, 3, 4, 6)
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    fine = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(value(student, target, 2, fine), value(student, target, 2, mask), rtol=0, atol=0)


def test_negative_features_are_not_pooled_with_the_padding() -> None:
    """Masked cells filled with 0 before the maximum would win over negative features."""
    student, target = -random(0, 1, 3, 4, 4).abs() - 1, -random(1, 1, 3, 4, 4).abs() - 1
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, ::2, ::2] = False
    assert float(value(student, target, 2, mask)) == pytest.approx(loop(student, target, 2, mask), rel=1e-10)


def test_invariant_to_rotation_and_scale() -> None:
    """Cosines do not know the basis nor, cell by cell, the length; the maximum, taken channel by channel, does."""
    student, target = random(0, 2, 4, 3, 5), random(1, 2, 4, 3, 5)
    rotation = torch.linalg.qr(random(2, 4, 4)).Q
    turned = torch.einsum("dc,bchw->bdhw", rotation, student) * (0.1 + random(3, 2, 1, 3, 5).abs())
    torch.testing.assert_close(value(turned, target, 1), value(student, target, 1), rtol=1e-9, atol=0)
    assert float(value(turned, student, 1)) < 1e-20
    assert float(value(student, target, 1)) > 1e-2


def test_invariant_to_the_order_of_nodes() -> None:
    student, target = random(0, 2, 4, 3, 5), random(1, 2, 4, 3, 5)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    mixed = [x.flatten(2)[..., order].view_as(x) for x in (student, target)]
    torch.testing.assert_close(value(mixed[0], mixed[1], 1), value(student, target, 1), rtol=1e-10, atol=0)


def test_the_gradient_goes_through_the_norm() -> None:
    """It stands at a right angle on every cell, as the value does not depend on lengths."""
    student = random(0, 1, 4, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(value(student, random(1, 1, 4, 3, 5), 1), student)
    assert gradient.abs().max() > 1e-3
    assert (gradient * student).sum(1).abs().max() < 1e-15


def test_small_differences_are_not_lost_in_float32() -> None:
    """The expanded square would give rounding noise, here of the size of the value."""
    student = random(0, 1, 8, 8, 8).abs() + 1
    target = student + 1e-3 * random(1, 1, 8, 8, 8)
    exact = value(student, target, 1)
    assert 1e-8 < exact < 1e-6
    torch.testing.assert_close(value(student.float(), target.float(), 1).double(), exact, rtol=1e-3, atol=0)


def test_cells_of_zero_have_no_exploding_gradient() -> None:
    student = random(0, 1, 4, 4, 4).relu()
    student[..., :2] = 0
    student.requires_grad_()
    answer = value(student, random(1, 1, 4, 4, 4), 1)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer.isfinite() and gradient.abs().max() < 10
    assert not gradient[..., :2].any()


def test_pool_out_of_range() -> None:
    with pytest.raises(Mistake, match=r"^pool: expected at least 1, got 0$"):
        PairwiseAffinity(0)
