"""Weighted soft targets: the number of the fixture, a loop written from the formula, and what the weight does."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.soft_targets import SoftTargets
from segdistill.losses.weighted_soft_targets import WeightedSoftTargets
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

# Two pixels of three classes.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])


def value(temperature: float, student: Tensor, target: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(labels.shape, dtype=torch.bool) if mask is None else mask
    return WeightedSoftTargets(temperature, num_classes=student.shape[1])(student, target, labels, mask)


def plain(temperature: float, student: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return SoftTargets(temperature)(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, target, labels with void, and a mask."""
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 6, (2, 4, 6), generator=generator)
    return student, target, labels.masked_fill(labels == 5, IGNORE), torch.rand(2, 4, 6, generator=generator) < 0.7


def test_fixture() -> None:
    assert float(value(2.0, STUDENT, TARGET, LABELS)) == pytest.approx(0.228478, abs=5e-7)


@pytest.mark.parametrize(("pixel", "expected"), [(0, 0.981780), (1, 0.588553)])
def test_fixture_of_the_weights(pixel: int, expected: float) -> None:
    """The weight of a pixel is its value over soft targets' value."""
    here = torch.tensor([[[pixel == 0, pixel == 1]]])
    weight = value(2.0, STUDENT, TARGET, LABELS, here) / plain(2.0, STUDENT, TARGET, here)
    assert float(weight) == pytest.approx(expected, abs=1e-6)


def test_agrees_with_a_loop() -> None:
    student, target, labels, mask = random_example()
    total, pixels = 0.0, 0
    for b, y, x in mask.nonzero().tolist():
        known = int(labels[b, y, x])
        if known == IGNORE:
            continue
        pixels += 1
        s, t = ([math.exp(float(v)) for v in logits[b, :, y, x]] for logits in (student, target))
        weight = 1 - math.exp(-math.log(s[known] / sum(s)) / (math.log(t[known] / sum(t)) - 1e-7))
        s, t = ([math.sqrt(v) for v in powers] for powers in (s, t))  # temperature 2
        total += weight * sum(v / sum(t) * math.log(v / sum(t) * sum(s) / u) for u, v in zip(s, t, strict=True))
    assert 20 < pixels < 40
    assert float(value(2.0, *random_example())) == pytest.approx(4 * total / pixels, rel=1e-10)


def test_the_weight_is_a_constant_of_the_gradient() -> None:
    """T·w·(p − q) / pixels; the weight's own slope would push the student away from the label."""
    student, target, labels, mask = random_example()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value(2.0, student, target, labels, mask), student)
    counts = mask & (labels != IGNORE)
    known = torch.where(counts, labels, 0)[:, None]
    errors = [-x.detach().log_softmax(1).gather(1, known) for x in (student, target)]
    weight = (1 - (-errors[0] / (errors[1] + 1e-7)).exp()) * counts[:, None]
    p, q = ((x.detach() / 2).softmax(1) for x in (student, target))
    torch.testing.assert_close(gradient, 2 * weight * (p - q) / counts.sum(), rtol=1e-9, atol=1e-12)


def test_near_a_student_that_is_like_its_target_the_weight_is_one_minus_one_over_e() -> None:
    student, _, labels, mask = random_example()
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = student + 1e-4 * noise
    ratio = value(2.0, near, student, labels, mask) / plain(2.0, near, student, mask & (labels != IGNORE))
    assert float(ratio) == pytest.approx(1 - math.exp(-1), rel=1e-3)
    assert float(value(2.0, student, student, labels, mask)) == 0


def test_a_student_that_fits_the_label_better_is_damped() -> None:
    """And where the target is certain of the label, it is plain soft targets."""
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    label = torch.tensor([[[0]]])

    def weight(student: float, target: float) -> float:
        s, t = (torch.tensor([x, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1) for x in (student, target))
        return float(value(2.0, s, t, label) / plain(2.0, s, t, everywhere))

    assert weight(8.0, 0.0) < 1e-3 < weight(2.0, 0.0) < 0.3 < weight(0.0, 2.0)
    assert weight(0.0, 30.0) == pytest.approx(1, abs=1e-12)


def test_pixels_without_a_label_do_not_count() -> None:
    student, target, labels, mask = random_example()
    counts = mask & (labels != IGNORE)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value(2.0, student, target, labels, mask), student)
    assert not gradient.movedim(1, 3)[~counts].any()
    assert gradient.movedim(1, 3)[counts].all()


def test_a_cells_label_is_that_of_most_of_it() -> None:
    labels = torch.tensor([[0, 0, 1, 1], [0, 1, IGNORE, 1]])[None]
    expected = value(2.0, STUDENT, TARGET, LABELS)
    torch.testing.assert_close(value(2.0, STUDENT, TARGET, labels), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(Mistake, match=rf"^temperature: expected more than 0, got {temperature}$"):
        WeightedSoftTargets(temperature, num_classes=3)
