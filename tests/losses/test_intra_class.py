"""Intra-class variation: the fixture, a loop over cells, prototypes per image and with a gradient, coarse labels."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.losses.intra_class import IntraClass, closeness
from segdistill.types import IGNORE

STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]
LABELS = torch.tensor([[[0, 0], [1, 1]]])
CLASSES = 3


def value(student: Tensor, target: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(labels.shape, dtype=torch.bool) if mask is None else mask
    return IntraClass(num_classes=CLASSES)(student, target, labels, mask)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_labels(*shape: int) -> Tensor:
    return torch.tensor([0, 1, 2, IGNORE])[torch.randint(4, shape, generator=torch.Generator().manual_seed(5))]


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(sum(u * u for u in a)) * math.sqrt(sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths


def loop(student: Tensor, target: Tensor, labels: Tensor, mask: Tensor) -> float:
    squares = list[float]()
    for s, t, y, m in zip(student, target, labels, mask, strict=True):
        for k in range(CLASSES):
            cells = (m & (y == k)).nonzero().tolist()
            close = list[list[float]]()
            for features in (s, t):
                vectors = [features[:, i, j].tolist() for i, j in cells]
                prototype = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
                close.append([cosine(vector, prototype) for vector in vectors])
            squares += [(a - b) ** 2 for a, b in zip(*close, strict=True)]
    return sum(squares) / len(squares)


def test_fixture() -> None:
    assert float(value(STUDENT, TARGET, LABELS)) == pytest.approx(0.026807, abs=5e-7)


def test_fixture_cosines() -> None:
    members = LABELS.flatten(1)[:, None] == torch.arange(CLASSES)[:, None]
    expected = {"s": [0.707107, 0.707107, 0.894427, 0.948683], "t": [0.894427, 0.948683, 1.0, 1.0]}
    assert closeness(STUDENT.flatten(2), members)[0].tolist() == pytest.approx(expected["s"], abs=5e-7)
    assert closeness(TARGET.flatten(2), members)[0].tolist() == pytest.approx(expected["t"], abs=5e-7)


def test_agrees_with_a_loop() -> None:
    """Void, padding, a class with one cell, an image without labels; channels differ."""
    student, target, labels = random(0, 4, 3, 5, 6), random(1, 4, 7, 5, 6), random_labels(4, 5, 6)
    labels[0][labels[0] == 2] = IGNORE
    labels[0, 2, 2] = 2
    labels[1] = IGNORE
    mask = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    assert float(value(student, target, labels, mask)) == pytest.approx(loop(student, target, labels, mask), rel=1e-10)


def test_void_is_not_in_the_denominator() -> None:
    """The published bug: a void cell is its own centre, so that it adds 0 and still counts."""
    student, target = (torch.cat([x, random(2, 1, 2, 2, 6)], 3) for x in (STUDENT, TARGET))
    labels = torch.cat([LABELS, torch.full((1, 2, 6), IGNORE)], 2)
    torch.testing.assert_close(value(student, target, labels), value(STUDENT, TARGET, LABELS), rtol=1e-12, atol=0)


def test_prototypes_are_per_image() -> None:
    """As each image has its own prototypes, a batch gives the mean over the labelled cells of its images."""
    student, target, labels = random(0, 2, 3, 4, 4), random(1, 2, 3, 4, 4), random_labels(2, 4, 4)
    labels[0, :2] = IGNORE
    counts = [int((y != IGNORE).sum()) for y in labels]
    apart = [float(value(student[i : i + 1], target[i : i + 1], labels[i : i + 1])) for i in range(2)]
    expected = sum(n * v for n, v in zip(counts, apart, strict=True)) / sum(counts)
    assert counts[0] != counts[1]
    assert float(value(student, target, labels)) == pytest.approx(expected, rel=1e-12)


def test_prototypes_of_the_student_have_a_gradient() -> None:
    """The numerical derivative, which moves the prototype with the cell, is that of autograd."""
    student, target, labels = random(0, 1, 3, 3, 3), random(1, 1, 3, 3, 3), random_labels(1, 3, 3)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(value(student, target, labels), student)
    with torch.no_grad():
        for c, y, x in [(0, 0, 0), (1, 1, 2), (2, 2, 1)]:
            step = torch.zeros_like(student)
            step[0, c, y, x] = 1e-6
            slope = (value(student + step, target, labels) - value(student - step, target, labels)) / 2e-6
            torch.testing.assert_close(gradient[0, c, y, x], slope, rtol=1e-6, atol=1e-10)


def test_invariant_to_rotation_and_scale() -> None:
    """One rotation and one scale per image."""
    student, target, labels = random(0, 2, 3, 4, 4), random(1, 2, 3, 4, 4), random_labels(2, 4, 4)
    turned = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(random(2, 3, 3)).Q, student)
    turned = turned * torch.tensor([0.1, 30.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(value(turned, target, labels), value(student, target, labels), rtol=1e-9, atol=0)
    assert float(value(turned, student, labels)) < 1e-20
    assert float(value(student, target, labels)) > 1e-2


def test_the_only_cell_of_its_class_adds_nothing() -> None:
    labels = torch.tensor([[[0, 1], [2, IGNORE]]])
    assert float(value(STUDENT, TARGET, labels)) < 1e-20


def test_labels_finer_than_the_features() -> None:
    """The class on most of a cell; a cell's corner says something else."""
    fine = LABELS.repeat_interleave(4, 1).repeat_interleave(4, 2)
    fine[:, ::4, ::4] = 2
    torch.testing.assert_close(value(STUDENT, TARGET, fine), value(STUDENT, TARGET, LABELS), rtol=0, atol=0)


def test_cells_and_prototypes_of_zero_have_no_exploding_gradient() -> None:
    student = STUDENT.clone()
    student[..., 0, 0] = 0
    student[..., 1, :] = torch.tensor([1.0, -1.0], dtype=torch.float64)  # the mean of class 1 is 0
    student.requires_grad_()
    answer = value(student, TARGET, LABELS)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer.isfinite() and gradient.abs().max() < 10


def test_keeps_one_tensor_of_features_for_backward() -> None:
    kept = dict[int, int]()

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    student, target = random(0, 2, 64, 16, 16).requires_grad_(), random(1, 2, 64, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        answer = value(student, target, random_labels(2, 16, 16))
    features = 2 * 64 * 256 * 8
    assert features < sum(kept.values()) < 1.5 * features
    answer.backward()
