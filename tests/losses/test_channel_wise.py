"""Channel-wise: the numbers of the fixture, a loop written from equation 3, and what a softmax over space ignores."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.channel_wise import ChannelWise
from segdistill.losses.soft_targets import SoftTargets
from segdistill.mistakes import Mistake

# Two pixels of three channels.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
EVERYWHERE = torch.ones(1, 1, 2, dtype=torch.bool)


def value(temperature: float, student: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return ChannelWise(temperature)(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_pair(shape: tuple[int, ...] = (2, 5, 4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target


def random_mask(shape: tuple[int, ...] = (2, 4, 6)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6


def map_by_map(temperature: float, student: Tensor, target: Tensor, mask: Tensor) -> list[float]:
    """A loop over images, channels and counting pixels."""
    values: list[float] = []
    for b in range(len(student)):
        pixels = mask[b].nonzero().tolist()
        for c in range(student.shape[1] if pixels else 0):
            s = [math.exp(float(student[b, c, y, x]) / temperature) for y, x in pixels]
            t = [math.exp(float(target[b, c, y, x]) / temperature) for y, x in pixels]
            terms = (v / sum(t) * math.log(v / sum(t) * sum(s) / u) for u, v in zip(s, t, strict=True))
            values.append(temperature**2 * sum(terms))
    return values


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.200834), (4.0, 0.264987)])
def test_fixture(temperature: float, expected: float) -> None:
    assert float(value(temperature, STUDENT, TARGET, EVERYWHERE)) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(("channel", "expected"), [(0, 0.168345), (1, 0.026345), (2, 0.407813)])
def test_fixture_of_one_channel(channel: int, expected: float) -> None:
    student, target = STUDENT[:, channel, None], TARGET[:, channel, None]
    assert float(value(1.0, student, target, EVERYWHERE)) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_agrees_with_a_loop(temperature: float) -> None:
    student, target = random_pair((3, 5, 4, 6))
    mask = random_mask((3, 4, 6))
    mask[1] = False  # its maps leave the mean
    expected = map_by_map(temperature, student, target, mask)
    assert len(expected) == 10
    assert float(value(temperature, student, target, mask)) == pytest.approx(sum(expected) / 10, rel=1e-10)


def test_is_soft_targets_with_classes_and_pixels_exchanged() -> None:
    student, target = random_pair((1, 5, 4, 6))
    exchanged = [tensor.flatten(2).transpose(1, 2).unsqueeze(2) for tensor in (student, target)]  # [1, 24, 1, 5]
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    expected = SoftTargets(2.0)(*exchanged, torch.zeros(1, 1, 5, dtype=torch.int64), mask)
    everywhere = torch.ones(1, 4, 6, dtype=torch.bool)
    torch.testing.assert_close(value(2.0, student, target, everywhere), expected, rtol=1e-14, atol=0)


def test_a_constant_added_to_a_map_changes_nothing() -> None:
    student, target = random_pair()
    before = value(4.0, student, target, random_mask())
    generator = torch.Generator().manual_seed(2)
    offsets = [5 * torch.randn(1, 5, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2)]
    after = value(4.0, student + offsets[0], target + offsets[1], random_mask())
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)
    one_pixel = torch.zeros_like(student)
    one_pixel[..., 0, 0] = 1
    assert not torch.isclose(value(4.0, student + one_pixel, target, random_mask()), before, rtol=1e-3)


def test_a_pixel_is_masked_before_the_softmax() -> None:
    """Masked after it, (0.1, 0.9) against (0.5, 0.5) without the second pixel is 0.1·ln(0.1 / 0.5) = −0.161."""
    target = torch.tensor([0.1, 0.9], dtype=torch.float64).log().view(1, 1, 1, 2)
    student = torch.zeros_like(target)
    first = torch.tensor([[[True, False]]])
    assert 0.1 * math.log(0.1 / 0.5) == pytest.approx(-0.160944, abs=5e-7)
    assert float(value(1.0, student, target, first)) == 0  # one pixel is all of the probability in both
    whole = 0.1 * math.log(0.2) + 0.9 * math.log(1.8)
    assert float(value(1.0, student, target, EVERYWHERE)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("there", [1e30, -1e30, torch.inf, torch.nan])
def test_what_stands_at_a_masked_pixel_is_never_read(there: float) -> None:
    student, target = random_pair((3, 5, 4, 6))
    mask = random_mask((3, 4, 6))
    mask[2] = False
    masked = ~mask[:, None].expand_as(student)
    student.requires_grad_()
    before = value(4.0, student, target, mask)
    (expected,) = torch.autograd.grad(before, student)
    changed = torch.where(masked, there, student.detach()).requires_grad_()
    after = value(4.0, changed, torch.where(masked, there, target), mask)
    (gradient,) = torch.autograd.grad(after, changed)
    assert torch.equal(after, before) and torch.equal(gradient, expected)
    assert not gradient[masked].any() and gradient[~masked].all()


def test_gradient_as_the_formula() -> None:
    """T·(p − q) / maps, with p and q over the counting pixels of a map."""
    student, target = random_pair()
    mask = random_mask()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value(4.0, student, target, mask), student)
    p, q = ((x.detach() / 4).exp() * mask[:, None] for x in (student, target))
    p, q = (x / x.sum((2, 3), keepdim=True) for x in (p, q))
    torch.testing.assert_close(gradient, 4 * (p - q) / 10, rtol=1e-9, atol=1e-12)


def test_zero_at_equality_up_to_an_offset() -> None:
    student, _ = random_pair()
    assert float(value(4.0, student, student, random_mask())) == 0
    assert abs(float(value(4.0, student, student + 7, random_mask()))) < 1e-13


def test_independent_of_the_size_of_a_map() -> None:
    """A map beside its copy has half the probability at twice the pixels."""
    student, target = random_pair()
    mask = random_mask()
    twice = [torch.cat([tensor, tensor], -1) for tensor in (student, target, mask)]
    torch.testing.assert_close(value(4.0, *twice), value(4.0, student, target, mask), rtol=1e-12, atol=0)


def test_features_at_a_quarter_of_the_masks_size() -> None:
    """A cell counts when more than half of it counts."""
    student, target = random_pair((1, 5, 2, 3))
    mask = torch.ones(1, 8, 12, dtype=torch.bool)
    mask[0, :4, :2] = False  # half of the first cell
    mask[0, 4:, 8:9] = False  # a quarter of the last
    cells = torch.ones(1, 2, 3, dtype=torch.bool)
    cells[0, 0, 0] = False
    torch.testing.assert_close(value(4.0, student, target, mask), value(4.0, student, target, cells))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(Mistake, match=rf"^temperature: expected more than 0, got {temperature}$"):
        ChannelWise(temperature)
