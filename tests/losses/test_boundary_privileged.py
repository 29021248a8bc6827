"""Boundary-privileged: what an edge is, a loop over windows, and the two losses that it consists of."""

import pytest
import torch
from torch import Tensor

from segdistill.losses.boundary_privileged import BoundaryPrivileged, near_boundary
from segdistill.losses.channel_wise import ChannelWise
from segdistill.losses.soft_targets import SoftTargets
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

VOID = IGNORE


def value(settings: tuple[int, float, float, float], student: Tensor, target: Tensor, *more: Tensor) -> Tensor:
    """`more`: labels and perhaps a mask."""
    labels, *masks = more
    return BoundaryPrivileged(*settings)(
        student, target, labels, masks[0] if masks else torch.ones_like(labels, dtype=torch.bool)
    )


def random_example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, target, labels with edges and void, and a mask; a window of 3 has many pixels of both kinds."""
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 8, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 5, (2, 2, 3), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[0, :, 3] = VOID
    return student, target, labels, torch.rand(2, 8, 12, generator=generator) < 0.8


def window_by_window(labels: Tensor, mask: Tensor, width: int) -> Tensor:
    edge = torch.zeros_like(mask)
    for b, y, x in torch.ones_like(mask).nonzero().tolist():
        classes: set[int] = set()
        for i in range(max(0, y - width // 2), min(mask.shape[1], y + width // 2 + 1)):
            for j in range(max(0, x - width // 2), min(mask.shape[2], x + width // 2 + 1)):
                if mask[b, i, j] and labels[b, i, j] != VOID:
                    classes.add(int(labels[b, i, j]))
        edge[b, y, x] = len(classes) > 1
    return edge


@pytest.mark.parametrize(
    ("row", "width", "expected"),
    [
        ([0, 0, 1, 1, 1], 3, [0, 1, 1, 0, 0]),
        ([0, 0, 1, 1, 1], 5, [1, 1, 1, 1, 0]),
        ([0, 0, 0, 0, 0], 3, [0, 0, 0, 0, 0]),  # the border is no edge
        ([18, 18, VOID, VOID, VOID], 3, [0, 0, 0, 0, 0]),  # nor is void
        ([0, VOID, 1, 1, 1], 3, [0, 1, 0, 0, 0]),  # between two classes
        ([VOID, VOID, VOID, VOID, VOID], 3, [0, 0, 0, 0, 0]),
    ],
)
def test_edge_of_a_row(row: list[int], width: int, expected: list[int]) -> None:
    labels = torch.tensor(row).view(1, 1, 5)
    assert near_boundary(labels, torch.ones_like(labels, dtype=torch.bool), width).int().flatten().tolist() == expected


@pytest.mark.parametrize("width", [3, 5, 7])
def test_edge_agrees_with_a_loop_over_windows(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    labels = torch.randint(0, 3, (2, 3, 4), generator=generator).repeat_interleave(5, 1).repeat_interleave(5, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    mask = torch.rand(labels.shape, generator=generator) < 0.9
    edge = near_boundary(labels, mask, width)
    assert 0.2 < float(edge.float().mean()) < 0.95
    assert torch.equal(edge, window_by_window(labels, mask, width))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_soft_targets_on_the_edge_and_channel_wise_off_it(temperature: float) -> None:
    student, target, labels, mask = random_example()
    edge = window_by_window(labels, mask, 3)
    on, off = edge & mask, ~edge & mask
    assert on.any() and off[0].any() and off[1].any()
    one = SoftTargets(temperature)(student, target, labels, on)
    other = ChannelWise(temperature)(student, target, labels, off)
    answer = value((3, temperature, 2.0, 0.5), student, target, labels, mask)
    torch.testing.assert_close(answer, 2 * one + 0.5 * other, rtol=1e-12, atol=0)


def test_no_edge_leaves_the_body_and_no_body_the_edge() -> None:
    student, target, _, mask = random_example()
    student.requires_grad_()
    one_class = torch.zeros(2, 8, 12, dtype=torch.int64)
    assert float(value((7, 1.0, 1.0, 0.0), student, target, one_class, mask).detach()) == 0
    expected = ChannelWise(1.0)(student, target, one_class, mask)
    torch.testing.assert_close(value((7, 1.0, 1.0, 1.0), student, target, one_class, mask), expected)
    stripes = torch.arange(12).remainder(5).expand(2, 8, 12).contiguous()
    answer = value((7, 1.0, 1.0, 1.0), student, target, stripes, mask)
    torch.testing.assert_close(answer, SoftTargets(1.0)(student, target, stripes, mask))
    (gradient,) = torch.autograd.grad(answer, student)
    assert gradient.isfinite().all()


def test_an_edge_pixel_does_not_enter_the_body() -> None:
    """It is gone before the softmax over space."""
    student, target, labels, mask = random_example()
    edge = (window_by_window(labels, mask, 3) & mask)[:, None].expand_as(student)
    changed = torch.where(edge, 50.0, student)
    body = (3, 1.0, 0.0, 1.0)
    torch.testing.assert_close(value(body, changed, target, labels, mask), value(body, student, target, labels, mask))


def test_labels_outside_the_mask_make_no_edge() -> None:
    student, target, labels, mask = random_example()
    others = torch.where(mask, labels, (labels + 1) % 5)
    expected = value((3, 1.0, 1.0, 1.0), student, target, labels, mask)
    torch.testing.assert_close(value((3, 1.0, 1.0, 1.0), student, target, others, mask), expected, rtol=0, atol=0)


def test_the_edge_is_found_in_the_labels_and_then_made_coarser() -> None:
    """Labels 0000 0001 1111 with a window of 3: the edge is pixels 6 and 7, half of the second cell and no more;
    with a window of 5 it is 5 to 8, three quarters of it."""
    labels = torch.tensor([0] * 7 + [1] * 5).expand(1, 4, 12).contiguous()
    student, target = (tensor[:1, :, :1, :3] for tensor in random_example()[:2])
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    assert float(value((3, 1.0, 1.0, 0.0), student, target, labels)) == 0
    second = torch.tensor([[[False, True, False]]])
    torch.testing.assert_close(
        value((5, 1.0, 1.0, 1.0), student, target, labels),
        SoftTargets(1.0)(student, target, labels[:, :1, :3], second)
        + ChannelWise(1.0)(student, target, labels[:, :1, :3], everywhere & ~second),
    )


def test_zero_at_equality() -> None:
    student, _, labels, mask = random_example()
    assert float(value((3, 2.0, 1.0, 1.0), student, student, labels, mask)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((4, 1.0, 1.0, 1.0), "width: expected an odd number of pixels, at least 3, got 4"),
        ((1, 1.0, 1.0, 1.0), "width: expected an odd number of pixels, at least 3, got 1"),
        ((7, 0.0, 1.0, 1.0), "temperature: expected more than 0, got 0.0"),
        ((7, 1.0, -1.0, 1.0), "edge: expected 0 or more, got -1.0"),
        ((7, 1.0, 1.0, -1.0), "body: expected 0 or more, got -1.0"),
    ],
)
def test_settings_out_of_range(settings: tuple[int, float, float, float], message: str) -> None:
    with pytest.raises(Mistake, match=f"^{message}$"):
        BoundaryPrivileged(*settings)
