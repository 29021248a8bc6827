"""Focal loss: the paper's numbers, a loop, and cross entropy at γ = 0."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.focal import Focal
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 4
WEIGHTS = [0.5, 2.0, 1.0, 3.0]


def build(gamma: float = 2.0, class_weights: list[float] | None = None, k: int = K) -> Focal:
    return Focal(gamma, class_weights, num_classes=k, class_pixels=[1] * k, class_image_pixels=[k] * k)


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


@pytest.mark.parametrize(("probability", "expected"), [(0.9, 0.001054), (0.6, 0.081732)])
def test_by_hand(probability: float, expected: float) -> None:
    """γ = 2."""
    logits = torch.tensor([probability, 1 - probability], dtype=torch.float64).log().view(1, 2, 1, 1)
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert float(build(k=2)(logits, labels, labels, labels == 0)) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_agrees_with_a_loop(gamma: float, class_weights: list[float] | None) -> None:
    logits, labels, mask = example()
    total = divisor = 0.0
    for b, y, x in (mask & (labels != IGNORE)).nonzero().tolist():
        label = int(labels[b, y, x])
        z = [math.exp(float(v)) for v in logits[b, :, y, x]]
        p, weight = z[label] / sum(z), (class_weights or [1.0] * K)[label]
        total -= weight * (1 - p) ** gamma * math.log(p)
        divisor += weight
    ours = build(gamma, class_weights)(logits, labels, labels, mask)
    assert float(ours) == pytest.approx(total / divisor, rel=1e-10)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_without_focus_it_is_cross_entropy(class_weights: list[float] | None) -> None:
    logits, labels, mask = example()
    plain = CrossEntropy(0.0, class_weights, num_classes=K, class_pixels=[1] * K)
    logits.requires_grad_()
    pair = [loss(logits, labels, labels, mask) for loss in (build(0.0, class_weights), plain)]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in pair))


def test_it_falls_as_the_focus_rises() -> None:
    logits, labels, mask = example()
    values = [float(build(gamma)(logits, labels, labels, mask)) for gamma in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert values == sorted(values, reverse=True) and values[-1] > 0


def test_easy_pixels_fade_from_the_sum_not_from_the_divisor() -> None:
    """An easy pixel more halves the value, it does not leave it as it was."""
    logits = torch.tensor([[0.0, 40.0], [0.0, -40.0]], dtype=torch.float64).view(1, 2, 1, 2)
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    one, two = (build(k=2)(logits[..., :n], labels[..., :n], labels[..., :n], labels[..., :n] == 0) for n in (1, 2))
    assert float(two) == pytest.approx(float(one) / 2, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_pixel_has_a_finite_gradient(gamma: float, dtype: torch.dtype) -> None:
    """(1 − p)^½ has an infinite slope where p is 1."""
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], dtype=dtype).view(1, 2, 1, 2).requires_grad_()
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    value = build(gamma, k=2)(logits, labels, labels, labels == 0)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(200, rel=1e-6)
    assert gradient[0, 0, 0].tolist() == pytest.approx([0, -0.5])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradcheck(gamma: float) -> None:
    logits, labels, mask = example()
    loss = build(gamma, WEIGHTS)

    def scalar(x: Tensor) -> Tensor:
        return loss(x, labels, labels, mask)

    assert torch.autograd.gradcheck(scalar, logits.requires_grad_(), fast_mode=True)


def test_gamma_out_of_range() -> None:
    with pytest.raises(Mistake, match=r"^gamma: expected 0 or more, got -1.0$"):
        build(-1.0)
