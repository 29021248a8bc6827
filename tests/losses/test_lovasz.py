"""Lovász-softmax: the set function it extends, written with sets; its gradient; and 1 − IoU at certain predictions."""

import pytest
import torch
from torch import Tensor

from segdistill.losses.lovasz import Lovasz, descending
from segdistill.types import IGNORE

K = 4
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])


def value(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    return Lovasz()(logits, labels, labels, labels < 300 if mask is None else mask)


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """The last class is in no label."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, K, 5, 7, generator=generator, dtype=dtype)
    labels = torch.randint(0, K - 1, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def loss_of_set(wrong: set[int], members: set[int]) -> float:
    """1 − IoU of a class when the pixels in `wrong` are: members are missed, others are predicted too much."""
    return 1 - len(members - wrong) / len(members | wrong)


def extension(errors: dict[int, float], members: set[int]) -> float:
    """Σ errors · (how much the set of larger errors loses by one pixel more), the paper's definition 1."""
    total, wrong = 0.0, set[int]()
    for pixel in sorted(errors, key=lambda pixel: -errors[pixel]):
        total += errors[pixel] * (loss_of_set(wrong | {pixel}, members) - loss_of_set(wrong, members))
        wrong.add(pixel)
    return total


def by_sets(logits: Tensor, labels: Tensor, mask: Tensor) -> float:
    p = logits.softmax(1).movedim(1, -1).flatten(0, 2).tolist()
    truth = torch.where(mask, labels, IGNORE).flatten().tolist()
    counting = [pixel for pixel, label in enumerate(truth) if label != IGNORE]
    each: list[float] = []
    for label in sorted({truth[pixel] for pixel in counting}):
        members = {pixel for pixel in counting if truth[pixel] == label}
        each.append(extension({i: abs((i in members) - p[i][label]) for i in counting}, members))
    return sum(each) / len(each)


def test_fixture() -> None:
    assert float(value(STUDENT, LABELS)) == pytest.approx(0.473485, abs=5e-7)


def test_agrees_with_the_set_function() -> None:
    logits, labels, mask = example()
    assert float(value(logits, labels, mask)) == pytest.approx(by_sets(logits, labels, mask), rel=1e-12)


def test_gradient_against_differences() -> None:
    """Of the version with sets, so of the function and not of our slopes; no two errors are near each other."""
    logits, labels, mask = example()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(value(logits, labels, mask), logits)
    step = 1e-6
    for place in [(0, 0, 0, 0), (0, 1, 2, 3), (1, 2, 4, 6), (1, 3, 1, 1), (0, 2, 3, 5), (1, 0, 0, 2)]:
        pair: list[float] = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[place] += sign * step
            pair.append(by_sets(moved, labels, mask))
        assert float(gradient[place]) == pytest.approx((pair[0] - pair[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_gradcheck() -> None:
    logits, labels, mask = example()

    def scalar(x: Tensor) -> Tensor:
        return value(x, labels, mask)

    assert torch.autograd.gradcheck(scalar, logits.requires_grad_(), fast_mode=True)


def test_certain_predictions_cost_one_minus_their_iou() -> None:
    _, labels, mask = example()
    generator = torch.Generator().manual_seed(1)
    said = torch.randint(0, K, labels.shape, generator=generator)
    logits = 1000.0 * torch.nn.functional.one_hot(said, K).movedim(-1, 1).double()
    counts = mask & (labels != IGNORE)
    each: list[float] = []
    for label in range(K - 1):
        truth, found = (labels == label) & counts, (said == label) & counts
        each.append(1 - int((truth & found).sum()) / int((truth | found).sum()))
    assert float(value(logits, labels, mask)) == pytest.approx(sum(each) / len(each), rel=1e-12)


def test_equal_errors_in_any_order() -> None:
    """Ties: every logit is the same, so all errors of a class's members are, and all of the others."""
    _, labels, mask = example()
    logits = torch.zeros(2, K, 5, 7, dtype=torch.float64)
    assert float(value(logits, labels, mask)) == pytest.approx(by_sets(logits, labels, mask), rel=1e-12)
    mirrored = value(logits, labels.flip(-1), mask.flip(-1))
    assert float(mirrored) == pytest.approx(float(value(logits, labels, mask)), rel=1e-12)


def test_pixels_that_do_not_count_are_behind_the_right_ones() -> None:
    """A pixel without a label beside right and certain ones, whose errors are 0, has no influence on their gradient."""
    logits = torch.tensor([[50.0, -50.0, 0.0], [-50.0, 50.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 3)
    labels = torch.tensor([[[IGNORE, 1, 0]]])
    few, all_of = (x.clone().requires_grad_() for x in (logits[..., 1:], logits))
    (short,) = torch.autograd.grad(value(few, labels[..., 1:]), few)
    (long,) = torch.autograd.grad(value(all_of, labels), all_of)
    torch.testing.assert_close(long[..., 1:], short, rtol=1e-12, atol=0)
    assert not long[..., 0].any()


def test_many_pixels_in_float32() -> None:
    """Slopes of 200 000 pixels; as differences of the index they would be off by 0.4 % (9 % at 4 million)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 400, 500, generator=generator)
    labels = torch.randint(0, 3, (1, 400, 500), generator=generator)
    gradients: list[Tensor] = []
    for x in (logits, logits.double()):
        x.requires_grad_()
        gradients.append(torch.autograd.grad(value(x, labels), x)[0].double())
    difference = (gradients[0] - gradients[1]).abs().mean() / gradients[1].abs().mean()
    assert float(difference) < 1e-4


def test_the_order_by_the_bits_of_a_float32() -> None:
    errors = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    errors[::7], errors[1::7], errors[2::7] = -1.0, 0.0, 1.0
    order = descending(errors)
    assert torch.equal(errors[order], errors.sort(descending=True).values)
    assert torch.equal(order.sort().values, torch.arange(1000))
