"""Cross-image relations: the fixtures, a loop over pairs of images, rows and columns that are not there, memory."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.cross_image import CrossImage
from segdistill.mistakes import Mistake

ONE_STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)
ONE_TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)
STUDENT = torch.stack([ONE_STUDENT, ONE_STUDENT.flip(-1)])
TARGET = torch.stack([ONE_TARGET, ONE_TARGET.flip(-2)])


def value(
    student: Tensor, target: Tensor, temperature: float = 0.1, pool: int = 1, mask: Tensor | None = None
) -> Tensor:
    mask = torch.ones(len(student), *student.shape[-2:], dtype=torch.bool) if mask is None else mask
    return CrossImage(temperature, pool)(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nodes_of(features: Tensor, mask: Tensor, pool: int) -> list[list[float]]:
    """Of one image: the channel-wise maxima, scaled to length 1."""
    c, height, width = features.shape
    nodes = list[list[float]]()
    for y in range(0, height, pool):
        for x in range(0, width, pool):
            window = [(i, j) for i in range(y, min(y + pool, height)) for j in range(x, min(x + pool, width))]
            cells = [(i, j) for i, j in window if mask[i, j]]
            if cells:
                node = [max(float(features[k, i, j]) for i, j in cells) for k in range(c)]
                length = math.sqrt(sum(v * v for v in node))
                nodes.append([v / length for v in node])
    return nodes


def softmax(query: list[float], keys: list[list[float]], temperature: float) -> list[float]:
    exponentials = [math.exp(sum(u * v for u, v in zip(query, key, strict=True)) / temperature) for key in keys]
    return [e / sum(exponentials) for e in exponentials]


def loop(student: Tensor, target: Tensor, temperature: float, pool: int, mask: Tensor) -> float:
    ours = [nodes_of(x, m, pool) for x, m in zip(student, mask, strict=True)]
    theirs = [nodes_of(x, m, pool) for x, m in zip(target, mask, strict=True)]
    pairs = list[float]()
    for i in range(len(student)):
        for j in range(len(student)):
            if not ours[i] or not ours[j]:
                continue
            rows = list[float]()
            for a in range(len(ours[i])):
                p = softmax(ours[i][a], ours[j], temperature)
                q = softmax(theirs[i][a], theirs[j], temperature)
                rows.append(sum(v * math.log(v / u) for u, v in zip(p, q, strict=True)))
            pairs.append(sum(rows) / len(rows))
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 2.196110), (1.0, 0.103987)])
def test_fixture(temperature: float, expected: float) -> None:
    assert float(value(STUDENT, TARGET, temperature)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("temperature", "pool"), [(0.5, 1), (0.1, 2), (0.3, 3)])
def test_agrees_with_a_loop(temperature: float, pool: int) -> None:
    """5 × 7 cells; one image has a single cell, one has none; channels differ."""
    student, target = random(0, 4, 3, 5, 7), random(1, 4, 6, 5, 7)
    mask = torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[1], mask[2] = False, False
    mask[1, 3, 3] = True
    expected = loop(student, target, temperature, pool, mask)
    assert float(value(student, target, temperature, pool, mask)) == pytest.approx(expected, rel=1e-10)


def test_images_are_compared_with_each_other() -> None:
    """Each image alone is at its target; only their relation is not."""
    student = random(0, 2, 4, 3, 3)
    target = student.clone()
    target[1] *= -1
    alone = [float(value(student[i : i + 1], target[i : i + 1])) for i in range(2)]
    assert alone == pytest.approx([0, 0], abs=1e-12)
    assert float(value(student, target)) > 0.1


def test_zero_at_equality_up_to_rotation_and_scale() -> None:
    student = random(0, 2, 4, 3, 5)
    rotation = torch.linalg.qr(random(2, 4, 4)).Q
    turned = torch.einsum("dc,bchw->bdhw", rotation, student) * (0.1 + random(3, 2, 1, 3, 5).abs())
    assert abs(float(value(turned, student))) < 1e-12
    assert float(value(random(4, 2, 4, 3, 5), student)) > 0.1


def test_invariant_to_the_order_of_images_and_nodes() -> None:
    student, target = random(0, 3, 4, 3, 5), random(1, 3, 4, 3, 5)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    mixed = [x.flip(0).flatten(2)[..., order].view_as(x) for x in (student, target)]
    torch.testing.assert_close(value(mixed[0], mixed[1]), value(student, target), rtol=1e-10, atol=0)


def test_the_gradient_is_that_of_one_graph() -> None:
    """Computing each pair again in backward changes nothing."""
    student, target = random(0, 3, 4, 3, 4).requires_grad_(), random(1, 3, 4, 3, 4)
    (gradient,) = torch.autograd.grad(value(student, target, 0.5), student)
    s, t = (x.flatten(2) / x.flatten(2).norm(dim=1, keepdim=True) for x in (student, target))
    log_p, log_q = (torch.einsum("icm,jcn->ijmn", x, x).div(0.5).log_softmax(3) for x in (s, t))
    (expected,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(3).mean(), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_cells_of_zero_have_no_exploding_gradient() -> None:
    student = random(0, 2, 4, 4, 4).relu()
    student[..., :2] = 0
    student.requires_grad_()
    answer = value(student, random(1, 2, 4, 4, 4))
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer.isfinite() and gradient.abs().max() < 100
    assert not gradient[..., :2].any()


def test_keeps_no_map_for_backward() -> None:
    kept = dict[int, int]()

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    student, target = random(0, 3, 2, 16, 16).requires_grad_(), random(1, 3, 2, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        answer = value(student, target)
    one_map = 256 * 256 * 8
    assert sum(kept.values()) < one_map
    answer.backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(Mistake, match=rf"^temperature: expected more than 0, got {temperature}$"):
        CrossImage(temperature)


def test_pool_out_of_range() -> None:
    with pytest.raises(Mistake, match=r"^pool: expected at least 1, got 0$"):
        CrossImage(pool=0)
