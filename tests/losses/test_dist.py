"""DIST: the numbers of the fixture, a loop around numpy's own correlation, and what a correlation cannot see."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.losses._correlation import distance, moments
from segdistill.losses.dist import Dist
from segdistill.mistakes import Mistake

# Two pixels of three classes, and four.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
TARGET_4 = torch.tensor([[2, 0, 1, -1], [0, 1, 0, 2], [-1, 0.5, 3, 0]], dtype=torch.float64).view(1, 3, 2, 2)
STUDENT_4 = torch.tensor([[1, 0.5, 0, -1], [0.5, 1, 0, 1], [0, -0.5, 1, 0]], dtype=torch.float64).view(1, 3, 2, 2)


def value(weights: tuple[float, float], student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return Dist(*map(float, weights))(student, target, torch.zeros(shape, dtype=torch.int64), mask)


def random_example() -> tuple[Tensor, Tensor, Tensor]:
    """Student, target and a mask."""
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target, torch.rand(2, 4, 6, generator=generator) < 0.6


@pytest.mark.parametrize(
    ("student", "target", "inter", "intra"),
    [(STUDENT_4, TARGET_4, 0.110670, 0.080050), (STUDENT, TARGET, 0.211477, 0.666666)],
)
def test_fixture(student: Tensor, target: Tensor, inter: float, intra: float) -> None:
    assert float(value((1, 0), student, target)) == pytest.approx(inter, abs=1e-6)
    assert float(value((0, 1), student, target)) == pytest.approx(intra, abs=1e-6)
    assert float(value((1, 1), student, target)) == pytest.approx(inter + intra, abs=2e-6)


def test_agrees_with_a_loop() -> None:
    student, target, mask = random_example()
    p, q = (x.softmax(1).movedim(1, 3)[mask].numpy() for x in (student, target))  # [counting pixels of the batch, 5]
    assert 20 < len(p) < 40
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))])
    intra = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(5)])
    assert float(value((2, 0.5), *random_example())) == pytest.approx(2 * inter + 0.5 * intra, rel=1e-10)


def test_a_correlation_has_no_scale_and_no_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))

    def of(a: Tensor, b: Tensor) -> Tensor:
        values, varies = distance(moments(a, b, [1]))
        assert varies.all()
        return 1 - values[:, 0]

    torch.testing.assert_close(of(3 * a + 2, b), of(a, b), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(of(a, 0.1 * b - 4), of(a, b), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(of(3 * a + 2, a), torch.ones(7, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(of(-a, a), -torch.ones(7, dtype=torch.float64), rtol=1e-12, atol=0)


def test_probabilities_may_be_flattened() -> None:
    """y → a·y + (1 − a)/K, a less certain target in all else the same, leaves both terms as they are."""
    student, target, mask = random_example()
    flat = (0.3 * target.softmax(1) + 0.7 / 5).log()
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        before = value(weights, student, target, mask)
        torch.testing.assert_close(value(weights, student, flat, mask), before, rtol=1e-10, atol=0)
        assert abs(float(value(weights, flat, target, mask))) < 1e-12


def test_a_class_that_does_not_vary_leaves_the_mean() -> None:
    """Counted with correlation 0, it would add a constant 1/K."""
    student, target, mask = random_example()
    student[:, 4], target[:, 4] = -1e3, -1e3
    after = value((1, 1), student, target, mask)
    p, q = (x.softmax(1).movedim(1, 3)[mask].numpy() for x in (student, target))
    intra = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(4)])
    torch.testing.assert_close(after - value((1, 0), student, target, mask), torch.tensor(intra, dtype=torch.float64))


@pytest.mark.parametrize("which", ["student", "target"])
def test_a_pixel_that_does_not_vary_leaves_the_mean(which: str) -> None:
    student, target, mask = random_example()
    mask[0, 0, 0] = True
    (student if which == "student" else target)[0, :, 0, 0] = 2.0
    without = mask.clone()
    without[0, 0, 0] = False
    torch.testing.assert_close(value((1, 0), student, target, mask), value((1, 0), student, target, without))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value((1, 1), student, target, mask), student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 11, 19])
def test_a_student_that_says_nothing_has_no_gradient(classes: int) -> None:
    """All logits equal, as a head of zeros gives: rounding is no relation, whose slope would be enormous."""
    target = torch.randn(2, classes, 8, 8, generator=torch.Generator().manual_seed(0))
    for constant in (0.0, 0.1, 3.3):
        student = torch.full_like(target, constant).requires_grad_()
        loss = value((1, 1), student, target)
        (gradient,) = torch.autograd.grad(loss, student)
        assert float(loss.detach()) == 0 and not gradient.any()


@pytest.mark.parametrize(("product", "counts"), [(0.9e-8, 0.0), (1.1e-8, 1.0)])
def test_what_hardly_varies_has_no_correlation(product: float, counts: float) -> None:
    """In float64 too: the product of the two norms is more than 1e-8, or there is none."""
    offsets = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]], dtype=torch.float64) * (product / 2) ** 0.5
    p, q = (1 / 3 + offsets).split(1)
    values, varies = distance(moments(p, q, [1]))
    assert float(varies) == counts
    assert float(values) == pytest.approx(0.5 if counts else 1, abs=0.01 if counts else 1)


@pytest.mark.parametrize("there", [1e30, torch.inf, torch.nan])
def test_what_stands_at_a_masked_pixel_is_never_read(there: float) -> None:
    student, target, mask = random_example()
    masked = ~mask[:, None].expand_as(student)
    student.requires_grad_()
    before = value((1, 1), student, target, mask)
    (expected,) = torch.autograd.grad(before, student)
    changed = torch.where(masked, there, student.detach()).requires_grad_()
    after = value((1, 1), changed, torch.where(masked, there, target), mask)
    (gradient,) = torch.autograd.grad(after, changed)
    assert torch.equal(after, before) and torch.equal(gradient, expected)


def test_zero_at_equality_and_two_at_the_opposite() -> None:
    student, _, mask = random_example()
    assert abs(float(value((1, 1), student, student, mask))) < 1e-14
    opposite = (0.4 - student.softmax(1) / 5).log()  # (2 − p)/5 is a distribution of 5 classes less 4/5
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        whole = opposite - opposite.exp().sum(1, keepdim=True).log()
        assert float(value(weights, whole, student, mask)) == pytest.approx(2, abs=1e-12)


def test_one_batch_is_not_two_halves() -> None:
    """What `per_batch` says: the relation of a class's pixels is over all images of the batch."""
    student, target, mask = random_example()
    assert Dist.per_batch
    halves = [value((0, 1), student[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in (0, 1)]
    assert not torch.isclose((halves[0] + halves[1]) / 2, value((0, 1), student, target, mask), rtol=1e-3)


@pytest.mark.parametrize("name", ["inter", "intra"])
def test_weights_out_of_range(name: str) -> None:
    with pytest.raises(Mistake, match=rf"^{name}: expected 0 or more, got -1.0$"):
        Dist(**{name: -1.0})
