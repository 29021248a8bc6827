"""Chunks: whatever their size, the value and the gradient are those of one piece, and little is kept."""

from functools import partial

import pytest
import torch
from torch import Tensor

from segdistill import parts
from segdistill.losses import _chunks
from segdistill.losses._chunks import CHANNELS, MAPS, PIXELS, by_autograd, in_chunks, kept, sums_in_chunks
from segdistill.testing.losses import LossSuite, ask, example, slope

SHAPE = (3, 5, 8, 16)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_of(value: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(value, student)[0]


def products(over: tuple[int, ...], student: Tensor, target: Tensor) -> Tensor:
    return (student.exp() * target).sum(over, keepdim=True)


@pytest.fixture(params=[1, 40, 200, 2**18])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Numbers in a chunk: from one row (or map) to everything; rows that do not fit evenly."""
    monkeypatch.setattr(_chunks, "ON_CPU", request.param)
    return request.param


@pytest.mark.parametrize(("along", "over"), [(PIXELS, (1,)), (MAPS, (2, 3)), (CHANNELS, (0, 2, 3))])
@pytest.mark.usefixtures("size")
def test_values_and_gradient_are_those_of_one_piece(along: tuple[int, ...], over: tuple[int, ...]) -> None:
    student, target = random(0).requires_grad_(), random(1, 3, 1, 8, 16)  # the target is the same for all channels
    work = partial(products, over)
    values, expected = in_chunks(by_autograd(work), along, student, target), work(student, target)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    weights = random(2, *values.shape)
    ours, theirs = (gradient_of((weights * x).sum(), student) for x in (values, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("size")
def test_sums_and_gradient_are_those_of_one_piece() -> None:
    student, target = random(0).requires_grad_(), random(1)

    def function(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = products((0, 2, 3), student, target)
        return sums, products((1,), student, target), torch.ones_like(sums)  # the last has no gradient

    values, expected = sums_in_chunks(function, PIXELS, student, target), function(student, target)
    ours, theirs = (sum((x.sum((0, 2, 3)) ** 2).sum() for x in each) for each in (values[:2], expected[:2]))
    assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(ours, student), gradient_of(theirs, student), rtol=1e-11, atol=1e-11)


LOSSES = [name for name in parts.names("losses") if name not in ("memory_contrast", "masked_generation")]
"""But those that draw."""


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1, 100], indirect=True)
def test_a_loss_is_the_same_in_chunks(name: str, size: int) -> None:
    loss = LossSuite.build(name).double()
    given = example().to(torch.float64)
    value, gradient = slope(loss, given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunks, "ON_CPU", 2**18)
        expected, whole = slope(loss, given)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [100], indirect=True)
def test_channels_last(name: str, size: int) -> None:
    loss, given = LossSuite.build(name), example()
    last = given._replace(
        student=given.student.to(memory_format=torch.channels_last),
        target=given.target.to(memory_format=torch.channels_last),
    )
    for ours, expected in zip(slope(loss, last), slope(loss, given), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_gradient(name: str) -> None:
    loss, given = LossSuite.build(name), example()
    expected, _ = slope(loss, given)
    assert torch.equal(ask(loss, given), expected)  # the student learns nothing
    with torch.no_grad():
        value = ask(loss, given._replace(student=given.student.clone().requires_grad_()))
    assert torch.equal(value, expected) and not value.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_two_gradients_of_one_graph(name: str) -> None:
    """As when the gradients of several edges are compared before they are added."""
    loss, given = LossSuite.build(name), example()
    student = given.student.clone().requires_grad_()
    value = ask(loss, given._replace(student=student))
    first = torch.autograd.grad(value, student, retain_graph=True)[0].clone()
    second = torch.autograd.grad(3 * value, student)[0]
    torch.testing.assert_close(second, 3 * first, rtol=1e-5, atol=1e-7)


def test_there_is_no_gradient_of_the_gradient() -> None:
    student = random(0).requires_grad_()
    values = in_chunks(by_autograd(partial(products, (1,))), PIXELS, student, random(1))
    (gradient,) = torch.autograd.grad(values.square().sum(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("there", [torch.inf, torch.nan, -0.5])
def test_kept_is_where(dtype: torch.dtype, there: float) -> None:
    counts = torch.rand(3, 1, 8, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    x = torch.where(counts, random(0), there).to(dtype).requires_grad_()
    ours, expected = kept(x, counts), torch.where(counts, x, 0)
    assert torch.equal(ours, expected.to(ours.dtype)) and ours.dtype != torch.float16
    weights = torch.where(counts, random(1), there).to(ours.dtype)
    gradient = gradient_of((ours * weights).sum(), x)
    assert torch.equal(gradient, torch.where(counts, weights, 0).expand_as(x).to(dtype))


KEPT = {
    "soft_targets": 1, "channel_wise": 1, "decoupled": 1, "standardised_logits": 1, "weighted_soft_targets": 1,
    "boundary_privileged": 2, "cross_entropy": 1, "focal": 1, "confidence_penalty": 1,
    "entropy_floor": 1, "ohem": 1, "lovasz": 1, "dist": 0, "dice": 0,
    "tversky": 0, "hint": 1, "standardised_hint": 1, "attention": 1,
}  # fmt: skip
"""What the docstrings say."""


@pytest.mark.parametrize(("name", "number"), KEPT.items())
def test_keeps_for_backward(name: str, number: int) -> None:
    """In tensors of the student's size, by what torch allocated and has not freed when the value is there."""
    loss = LossSuite.build(name)
    student, target, labels, mask = (x.repeat(1, 1, 16, 16) if x.ndim == 4 else x.repeat(1, 16, 16) for x in example())
    student, target = (x.repeat_interleave(16, 1) if name in ("hint", "attention") else x for x in (student, target))
    student.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        value = loss(student, target, labels, mask)
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages()) / student.element_size()
    assert value.requires_grad
    # What is one number per pixel, such as a weight, is little beside 19 classes.
    assert number * student.numel() <= held < number * student.numel() + 8 * labels.numel()
