"""Tversky loss: the number of the fixture, a loop, and Dice as its symmetric case."""

import pytest
import torch
from torch import Tensor

from segdistill.losses.dice import Dice
from segdistill.losses.tversky import Tversky
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 5
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Class 4 is in no label."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K - 1, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def test_fixture() -> None:
    value = Tversky(smooth=0.0)(STUDENT, LABELS, LABELS, LABELS >= 0)
    assert float(value) == pytest.approx(0.448007, abs=5e-7)


@pytest.mark.parametrize(
    ("alpha", "beta", "smooth"), [(0.3, 0.7, 1.0), (0.7, 0.3, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)]
)
def test_agrees_with_a_loop(alpha: float, beta: float, smooth: float) -> None:
    logits, labels, mask = example()
    right, excess, missed = [0.0] * K, [0.0] * K, [0.0] * K
    present: set[int] = set()
    for b, y, x in (mask & (labels != IGNORE)).nonzero().tolist():
        label = int(labels[b, y, x])
        present.add(label)
        for c, p in enumerate(logits[b, :, y, x].softmax(0).tolist()):
            right[c] += p * (c == label)
            excess[c] += p * (c != label)
            missed[c] += (1 - p) * (c == label)
    each = [
        1 - (right[c] + smooth) / (right[c] + alpha * excess[c] + beta * missed[c] + smooth) for c in sorted(present)
    ]
    assert len(each) == K - 1
    ours = Tversky(alpha, beta, smooth)(logits, labels, labels, mask)
    assert float(ours) == pytest.approx(sum(each) / len(each), rel=1e-12)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_equal_prices_are_dice(smooth: float) -> None:
    logits, labels, mask = example()
    logits.requires_grad_()
    pair = [loss(logits, labels, labels, mask) for loss in (Tversky(0.5, 0.5, smooth), Dice(2 * smooth))]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in pair))


def test_a_high_beta_asks_for_recall() -> None:
    """A rare class predicted too much costs less than one missed by as much."""
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[0, :2] = 1
    values: dict[tuple[int, float], float] = {}
    for rows in (1, 3):
        logits = torch.zeros(1, 2, 10, 10, dtype=torch.float64)
        logits[0, 1] = -100
        logits[0, 1, :rows] = 100
        for beta in (0.3, 0.7):
            each = Tversky(1 - beta, beta, 0.0)(logits, labels, labels, labels >= 0)
            values[rows, beta] = float(each)
    assert values[1, 0.7] > values[1, 0.3] and values[3, 0.7] < values[3, 0.3]


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_nothing_labelled(smooth: float) -> None:
    logits, labels, mask = example()
    nothing = Tversky(smooth=smooth)(logits.requires_grad_(), labels, labels, torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0 and not gradient.any()


@pytest.mark.parametrize("name", ["alpha", "beta", "smooth"])
def test_a_negative_setting(name: str) -> None:
    with pytest.raises(Mistake, match=rf"^{name}: expected 0 or more, got -1.0$"):
        Tversky(**{name: -1.0})


def test_no_price_at_all() -> None:
    with pytest.raises(Mistake, match=r"^beta: expected more than 0 where alpha is 0"):
        Tversky(0.0, 0.0)
