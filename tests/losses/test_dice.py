"""Soft Dice: the numbers of the fixture, a loop, and what the mean over present classes means."""

import pytest
import torch
from torch import Tensor

from segdistill.losses.dice import Dice
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 5
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])


def value(smooth: float, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    return Dice(smooth)(logits, labels, labels, labels < 300 if mask is None else mask)


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Class 4 is in no label."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K - 1, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def test_fixture() -> None:
    """ε = 0, over the two classes in the labels; with the absent third, whose loss is 1, .619734."""
    found = float(value(0.0, STUDENT, LABELS))
    assert found == pytest.approx(0.429601, abs=5e-7)
    assert (2 * found + 1) / 3 == pytest.approx(0.619734, abs=5e-7)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 10.0])
def test_agrees_with_a_loop(smooth: float) -> None:
    logits, labels, mask = example()
    both, predicted, labelled = [0.0] * K, [0.0] * K, [0] * K
    for b, y, x in (mask & (labels != IGNORE)).nonzero().tolist():
        label = int(labels[b, y, x])
        labelled[label] += 1
        for c, p in enumerate(logits[b, :, y, x].softmax(0).tolist()):
            predicted[c] += p
            both[c] += p * (c == label)
    each = [
        1 - (2 * both[c] + smooth) / (predicted[c] + labelled[c] + smooth) for c in range(K) if labelled[c]
    ]  # fmt: skip
    assert len(each) == K - 1
    assert float(value(smooth, logits, labels, mask)) == pytest.approx(sum(each) / len(each), rel=1e-12)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_zero_when_right_and_certain(smooth: float) -> None:
    _, labels, mask = example()
    known = torch.where(labels == IGNORE, 0, labels)
    logits = 100.0 * torch.nn.functional.one_hot(known, K).movedim(-1, 1).double()
    assert 0 <= float(value(smooth, logits, labels, mask)) < 1e-12


def test_one_when_wrong_and_certain() -> None:
    _, labels, mask = example()
    wrong = torch.where(labels == IGNORE, 0, (labels + 1) % (K - 1))
    logits = 100.0 * torch.nn.functional.one_hot(wrong, K).movedim(-1, 1).double()
    assert float(value(0.0, logits, labels, mask)) == pytest.approx(1, rel=1e-12)


def test_a_rare_class_counts_like_a_frequent_one() -> None:
    """A missed class of 1 pixel and one of 99 cost the same."""
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[0, 0, 0] = 1
    missed = torch.zeros(2)
    for label in (0, 1):  # everything is said to be the other class, which then overlaps as far as it can
        logits = torch.zeros(1, 2, 10, 10, dtype=torch.float64)
        logits[:, 1 - label] = 100
        share = 0.99 if label == 1 else 0.01
        missed[label] = value(0.0, logits, labels)
        assert float(missed[label]) == pytest.approx((1 + 1 - 2 * share / (1 + share)) / 2, rel=1e-6)


def test_pixels_that_do_not_count_are_in_no_area() -> None:
    logits, labels, mask = example()
    void = torch.where(mask, labels, IGNORE)
    noise = torch.where((void == IGNORE)[:, None], 50 * torch.randn_like(logits), logits)
    torch.testing.assert_close(value(1.0, noise, void), value(1.0, logits, labels, mask), rtol=1e-12, atol=0)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_nothing_labelled(smooth: float) -> None:
    """0 / 0 without smoothing."""
    logits, labels, mask = example()
    nothing = value(smooth, logits.requires_grad_(), labels, torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0 and not gradient.any()


def test_a_negative_smoothing() -> None:
    with pytest.raises(Mistake, match=r"^smooth: expected 0 or more, got -1.0$"):
        Dice(-1.0)
