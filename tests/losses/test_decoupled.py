"""Decoupled: the numbers of the fixture, the identity that gave it its name, and the codes' infinity."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.decoupled import Decoupled
from segdistill.losses.soft_targets import SoftTargets
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

# Two pixels of three classes.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])


def value(
    temperature: float,
    weights: tuple[float, float],
    student: Tensor = STUDENT,
    target: Tensor = TARGET,
    labels: Tensor = LABELS,
    mask: Tensor | None = None,
) -> Tensor:
    mask = torch.ones(labels.shape, dtype=torch.bool) if mask is None else mask
    return Decoupled(temperature, *weights, num_classes=student.shape[1])(student, target, labels, mask)


def random_example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, target, labels with void, and a mask."""
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 6, (2, 4, 6), generator=generator)
    return student, target, labels.masked_fill(labels == 5, IGNORE), torch.rand(2, 4, 6, generator=generator) < 0.7


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 1.323984), (4.0, 1.433106)])
def test_fixture(temperature: float, expected: float) -> None:
    assert float(value(temperature, (1.0, 8.0))) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("weights", "expected"), [((1.0, 0.0), (0.250996, 0.003226)), ((0.0, 1.0), (0.026345, 0.272874))]
)
def test_fixture_of_each_term_and_pixel(weights: tuple[float, float], expected: tuple[float, float]) -> None:
    for pixel in (0, 1):
        labels = torch.full_like(LABELS, IGNORE)
        labels[..., pixel] = LABELS[..., pixel]
        assert float(value(1.0, weights, labels=labels)) == pytest.approx(expected[pixel], abs=5e-7)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_its_own_weight_it_is_soft_targets(temperature: float) -> None:
    """KL = TCKD + (1 − p_known)·NCKD at every pixel."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        student, target = (3 * torch.randn(1, 5, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        label = torch.randint(0, 5, (1, 1, 1), generator=generator)
        others = 1 - float((target / temperature).softmax(1)[0, int(label)])
        whole = SoftTargets(temperature)(student, target, label, torch.ones(1, 1, 1, dtype=torch.bool))
        parts = value(temperature, (1.0, others), student, target, label)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


def test_agrees_with_a_loop() -> None:
    student, target, labels, mask = random_example()
    total, pixels = 0.0, 0
    for b, y, x in mask.nonzero().tolist():
        known = int(labels[b, y, x])
        if known == IGNORE:
            continue
        pixels += 1
        s = [math.exp(float(v) / 2) for v in student[b, :, y, x]]
        t = [math.exp(float(v) / 2) for v in target[b, :, y, x]]
        p, q = s[known] / sum(s), t[known] / sum(t)
        total += 1.5 * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))
        del s[known], t[known]
        total += 0.5 * sum(v / sum(t) * math.log(v / sum(t) * sum(s) / u) for u, v in zip(s, t, strict=True))
    assert 20 < pixels < 40
    expected = 4 * total / pixels
    assert float(value(2.0, (1.5, 0.5), *random_example())) == pytest.approx(expected, rel=1e-10)


def test_a_class_that_is_impossible_is_no_infinity() -> None:
    """ln(1 − p) of a p that rounds to 1 is −∞; with s = (200, 0, −1) the published code returns infinity."""
    student = torch.tensor([200.0, 0.0, -1.0]).view(1, 3, 1, 1).requires_grad_()
    target = TARGET[..., :1].float()
    loss = value(1.0, (1.0, 8.0), student, target, LABELS[..., :1])
    (gradient,) = torch.autograd.grad(loss, student)
    q = target.double().softmax(1).flatten().tolist()
    rest = math.log1p(math.exp(-1))  # log-sum-exp of the two others
    binary = q[0] * math.log(q[0]) + (1 - q[0]) * (math.log(1 - q[0]) + 200 - rest)
    assert float(loss.detach()) == pytest.approx(binary, rel=1e-6)  # the others are (0, −1) in both: their part is 0
    assert gradient.flatten().tolist()[0] == pytest.approx(1 - q[0], rel=1e-5)


def test_the_known_class_is_never_among_the_others() -> None:
    """However far ahead it is: a logit lowered by a large number, as in the published code, is still there."""
    student, target = (torch.tensor([0.0, x, x + y]).view(1, 3, 1, 1) for x, y in ((-5e3, 1.0), (-6e3, -1.0)))
    label = torch.zeros(1, 1, 1, dtype=torch.int64)
    p, q = (torch.tensor([0.0, y], dtype=torch.float64).softmax(0) for y in (1.0, -1.0))
    expected = float((q * (q / p).log()).sum())
    assert float(value(1.0, (0.0, 1.0), student, target, label)) == pytest.approx(expected, rel=1e-3)


def test_the_known_classes_logit_does_not_enter_the_second_term() -> None:
    student, target, labels, mask = random_example()
    known = torch.where(labels == IGNORE, 0, labels)[:, None]
    before = value(2.0, (0.0, 1.0), student, target, labels, mask)
    changed = [tensor.scatter_add(1, known, torch.full_like(tensor, 9.0)) for tensor in (student, target)]
    after = value(2.0, (0.0, 1.0), changed[0], changed[1], labels, mask)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)
    binary = value(2.0, (1.0, 0.0), changed[0], changed[1], labels, mask)
    assert not torch.isclose(binary, value(2.0, (1.0, 0.0), student, target, labels, mask), rtol=1e-2)


def test_pixels_without_a_label_do_not_count() -> None:
    student, target, labels, mask = random_example()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value(2.0, (1.0, 1.0), student, target, labels, mask), student)
    assert not gradient.movedim(1, 3)[~(mask & (labels != IGNORE))].any()
    assert gradient.movedim(1, 3)[mask & (labels != IGNORE)].all()


def test_zero_at_equality_up_to_a_constant() -> None:
    student, _, labels, mask = random_example()
    assert float(value(2.0, (1.0, 8.0), student, student, labels, mask)) == 0
    assert abs(float(value(2.0, (1.0, 8.0), student + 5, student - 3, labels, mask))) < 1e-13


def test_a_cells_label_is_that_of_most_of_it() -> None:
    student, target = STUDENT, TARGET
    labels = torch.tensor([[0, 0, 1, 1], [0, 1, IGNORE, 1]])[None]
    torch.testing.assert_close(value(1.0, (1.0, 8.0), student, target, labels), value(1.0, (1.0, 8.0)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0.0, 1.0, 1.0), "temperature: expected more than 0, got 0.0"),
        ((1.0, -1.0, 1.0), "target_weight: expected 0 or more, got -1.0"),
        ((1.0, 1.0, -0.5), "non_target_weight: expected 0 or more, got -0.5"),
    ],
)
def test_settings_out_of_range(settings: tuple[float, float, float], message: str) -> None:
    with pytest.raises(Mistake, match=f"^{message}$"):
        Decoupled(*settings, num_classes=3)
