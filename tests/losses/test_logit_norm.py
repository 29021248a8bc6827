"""Logit normalisation: the paper's equation on one pixel, a loop, and what the norm does to size and gradient."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.logit_norm import LogitNorm
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 4, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


def test_by_hand() -> None:
    """z = (3, 4), norm 5, τ = 0.5: softmax of (1.2, 1.6)."""
    logits = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert float(LogitNorm(0.5)(logits, label, label, label == 0)) == pytest.approx(
        math.log(1 + math.exp(0.4)), rel=1e-7
    )


@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_agrees_with_a_loop(temperature: float) -> None:
    logits, labels, mask = example()
    values: list[float] = []
    for b, y, x in (mask & (labels != IGNORE)).nonzero().tolist():
        z = [float(v) for v in logits[b, :, y, x]]
        norm = math.sqrt(sum(v * v for v in z)) + 1e-7
        z = [v / (temperature * norm) for v in z]
        values.append(math.log(sum(math.exp(v) for v in z)) - z[int(labels[b, y, x])])
    ours = LogitNorm(temperature)(logits, labels, labels, mask)
    assert float(ours) == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_the_size_of_the_logits_is_worth_nothing() -> None:
    logits, labels, mask = example()
    logits.requires_grad_()
    values = [LogitNorm(0.1)(scale * logits, labels, labels, mask) for scale in (1.0, 10.0)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(values[0], logits)
    along = (slope * logits).sum(1)
    assert along.abs().max() < 1e-6 * slope.abs().max()


def test_gradient() -> None:
    logits, labels, mask = example()

    def value(z: Tensor) -> Tensor:
        return LogitNorm(0.3)(z, labels, labels, mask)

    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_without_a_direction(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 4, 2, 2, dtype=dtype, requires_grad=True)
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    value = LogitNorm()(logits, labels, labels, labels == 0)
    assert float(value.detach()) == pytest.approx(math.log(4))
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_a_temperature_of_nothing() -> None:
    with pytest.raises(Mistake, match="temperature: expected more than 0, got 0"):
        LogitNorm(0.0)
