"""Soft targets: the numbers of the fixture, a loop written from the formula, and Hinton's remarks about T."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segdistill.assemble import assemble
from segdistill.checkpoint import Card, save_weights
from segdistill.losses.soft_targets import SoftTargets
from segdistill.mistakes import Mistake, one_of
from segdistill.models.unet import UNet
from segdistill.recipe import parse
from segdistill.types import ClassTable

# Two pixels of three classes.
TARGET = torch.tensor([[2, 0], [0, 1], [-1, 0.5]], dtype=torch.float64).view(1, 3, 1, 2)
STUDENT = torch.tensor([[1, 0.5], [0.5, 1], [0, -0.5]], dtype=torch.float64).view(1, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]]])
EVERYWHERE = torch.ones(1, 1, 2, dtype=torch.bool)


def value(temperature: float, student: Tensor = STUDENT, target: Tensor = TARGET, mask: Tensor = EVERYWHERE) -> Tensor:
    return SoftTargets(temperature)(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def random_pair(shape: tuple[int, ...] = (2, 5, 4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, 0.196503), (2.0, 0.266194), (4.0, 0.282303), (1e3, 0.277834)]
)
def test_fixture(temperature: float, expected: float) -> None:
    assert float(value(temperature)) == pytest.approx(expected, abs=5e-7)


def test_fixture_of_two_that_learn_from_each_other() -> None:
    """What each pays in mutual learning; the two directions differ."""
    values = [float(value(1.0, STUDENT, TARGET)), float(value(1.0, TARGET, STUDENT))]
    assert values == pytest.approx([0.196503, 0.221477], abs=5e-7)


@pytest.mark.parametrize(("pixel", "expected"), [(0, 0.255111), (1, 0.137895)])
def test_fixture_with_one_pixel_masked(pixel: int, expected: float) -> None:
    assert float(value(1.0, mask=torch.tensor([[[pixel == 0, pixel == 1]]]))) == pytest.approx(expected, abs=5e-7)


def test_fixture_gradient() -> None:
    """T = 4, the first pixel alone; and as the formula says, T·(p_s − p_t) / pixels."""
    student = STUDENT[..., :1].clone().requires_grad_()
    loss = value(4.0, student, TARGET[..., :1], EVERYWHERE[..., :1])
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.flatten().tolist() == pytest.approx([-0.421071, 0.159392, 0.261679], abs=5e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_as_the_formula(temperature: float) -> None:
    student, target = random_pair()
    student.requires_grad_()
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0, :2] = False
    (gradient,) = torch.autograd.grad(value(temperature, student, target, mask), student)
    p, q = ((x / temperature).softmax(1) for x in (student, target))
    torch.testing.assert_close(gradient, temperature * (p - q) * mask[:, None] / mask.sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_agrees_with_a_loop(temperature: float) -> None:
    student, target = random_pair()
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    total = 0.0
    for b, y, x in mask.nonzero().tolist():
        s = [math.exp(float(v) / temperature) for v in student[b, :, y, x]]
        t = [math.exp(float(v) / temperature) for v in target[b, :, y, x]]
        for c in range(5):
            total += t[c] / sum(t) * (math.log(t[c] / sum(t)) - math.log(s[c] / sum(s)))
    expected = temperature**2 * total / int(mask.sum())
    assert float(value(temperature, student, target, mask)) == pytest.approx(expected, rel=1e-10)


def test_limit_of_high_temperature() -> None:
    """T²·KL → (1/2K)·Σ of the squared differences of centred logits."""
    difference = (STUDENT - STUDENT.mean(1, keepdim=True)) - (TARGET - TARGET.mean(1, keepdim=True))
    limit = float(difference.square().sum(1).mean() / 6)
    assert limit == pytest.approx(0.277778, abs=5e-7)
    errors = [abs(float(value(temperature)) - limit) for temperature in (1e2, 1e3, 1e4)]
    assert errors[1] < errors[0] / 8 and errors[2] < errors[1] / 8  # the error falls with 1/T


def test_temperature_leaves_the_size_of_gradients() -> None:
    """Hinton's T²: without it the gradient falls with 1/T², with it it tends to (s̃ − t̃) / K per pixel."""
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(1e4, student), student)
    centred = (STUDENT - STUDENT.mean(1, keepdim=True)) - (TARGET - TARGET.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, centred / 3 / 2, rtol=1e-3, atol=1e-6)


def test_differs_from_cross_entropy_by_the_targets_entropy() -> None:
    p, log_q = TARGET.softmax(1), STUDENT.log_softmax(1)
    cross_entropy = -(p * log_q).sum(1).mean()
    entropy = -(p * TARGET.log_softmax(1)).sum(1).mean()
    assert float(cross_entropy) == pytest.approx(0.968732, abs=5e-7)
    assert float(entropy) == pytest.approx(0.772229, abs=5e-7)
    torch.testing.assert_close(value(1.0), cross_entropy - entropy, rtol=1e-12, atol=0)


def test_a_constant_added_to_all_classes_changes_nothing() -> None:
    student, target = random_pair((1, 3, 1, 2))
    torch.testing.assert_close(value(2.0, student + 5, target - 3), value(2.0, student, target), rtol=1e-10, atol=0)


def test_a_pixel_certain_of_a_class_is_no_nan() -> None:
    certain = torch.tensor([1e4, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    assert float(value(1.0, STUDENT, certain)) == pytest.approx(float(-STUDENT.log_softmax(1)[0, 0].mean()), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(Mistake, match=rf"^temperature: expected more than 0, got {temperature}$"):
        SoftTargets(temperature)


# Weighted by the target's class


def weighted(class_weights: list[float], temperature: float = 1.0) -> SoftTargets:
    k = len(class_weights)
    return SoftTargets(temperature, class_weights, num_classes=k, channels=k)


@pytest.mark.parametrize(
    ("class_weights", "expected"),
    [
        ([1.0, 1.0, 1.0], 0.196503),
        ([1.0, 3.0, 9.0], (0.255111 + 3 * 0.137895) / 4),
        ([1.0, 0.0, 9.0], 0.255111),
    ],
)
def test_fixture_with_class_weights(class_weights: list[float], expected: float) -> None:
    """The target finds class 0 most likely at the first pixel, class 1 at the second; whatever the labels say."""
    for labels in (LABELS, torch.full_like(LABELS, 255)):
        found = weighted(class_weights)(STUDENT, TARGET, labels, EVERYWHERE)
        assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_weighted_agrees_with_a_loop(temperature: float) -> None:
    student, target = random_pair()
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    weights = [0.5, 2.0, 1.0, 3.0, 0.25]
    total = divisor = 0.0
    for b, y, x in mask.nonzero().tolist():
        weight = weights[max(range(5), key=target[b, :, y, x].tolist().__getitem__)]
        alone = torch.zeros_like(mask)
        alone[b, y, x] = True
        total += weight * float(value(temperature, student, target, alone))
        divisor += weight
    found = weighted(weights, temperature)(student, target, torch.zeros(2, 4, 6, dtype=torch.int64), mask)
    assert float(found) == pytest.approx(total / divisor, rel=1e-10)


def test_weights_by_name_are_those_of_the_training_split() -> None:
    student, target = random_pair((2, 3, 4, 6))
    labels, mask = torch.zeros(2, 4, 6, dtype=torch.int64), torch.ones(2, 4, 6, dtype=torch.bool)
    named = SoftTargets(1.0, "enet", num_classes=3, class_pixels=[500, 300, 200], channels=3)
    said = weighted([2.388286, 3.601882, 5.028940])
    answers = [loss(student, target, labels, mask) for loss in (named, said)]
    torch.testing.assert_close(*answers, rtol=1e-5, atol=0)
    assert abs(float(answers[0] - value(1.0, student, target, mask))) > 1e-3


def test_no_weighted_pixel_gives_an_attached_zero() -> None:
    student = STUDENT.clone().requires_grad_()
    answer = weighted([0.0, 0.0, 1.0])(student, TARGET, LABELS, EVERYWHERE)
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer == 0 and not gradient.any()


def test_weighted_does_not_wait_for_the_device() -> None:
    loss = weighted([1.0, 2.0, 3.0]).to("meta")
    student, target, labels, mask = (x.to("meta") for x in (STUDENT, TARGET, LABELS, EVERYWHERE))
    loss(student.requires_grad_(), target, labels, mask).backward()


def test_weights_need_a_target_of_classes() -> None:
    with pytest.raises(Mistake, match=r"^class_weights: expected a target of 19 classes, got 16 channels$"):
        SoftTargets(1.0, "enet", num_classes=19, class_pixels=[1] * 19, channels=16)


def test_weights_of_groups_of_classes(tmp_path: Path) -> None:
    """Frequencies are those of the groups that both tables share; what never occurs is said."""
    torch.manual_seed(0)
    table = ClassTable(("ground", "traffic"), ((0, 0, 0),) * 2)
    card = Card("unet", {"width": 2, "depth": 2}, table, None, 1, {})
    save_weights(tmp_path / "two.safetensors", UNet(2, 2, num_classes=2), card)
    class_map = {"ground": ["road", "sidewalk", "terrain"], "traffic": ["car", "train"]}
    recipe = {
        "data": {"kind": "streets", "count": 2, "val_count": 2, "scene_size": [48, 64], "batch": 2},
        "models": {
            "student": {"kind": "unet", "width": 2, "depth": 2},
            "teacher": {"weights": str(tmp_path / "two.safetensors"), "frozen": True, "class_map": class_map},
        },
        "losses": {
            "plain": {"kind": "cross_entropy", "student": "student", "class_weights": "median_frequency"},
            "soft_targets": {"student": "student", "target": "teacher", "class_weights": "median_frequency"},
        },
        "steps": 1,
    }
    assembly = assemble(parse(recipe))
    loss = assembly.system.edge("soft_targets").loss
    assert isinstance(loss, SoftTargets) and loss.weights is not None
    within = [0.0, 0.0]
    for group, names in enumerate(class_map.values()):
        ours = [[assembly.classes.names.index(name) for name in members] for members in class_map.values()]
        inside = torch.zeros(2)
        for i in range(2):
            labels = assembly.train[i].labels
            sizes = [sum(int((labels == k).sum()) for k in members) for members in ours]
            if sizes[group]:
                inside += torch.tensor([sizes[group], sum(sizes)])
        within[group] = float(inside[0] / inside[1])
        assert len(names) == len(ours[group])
    expected = [sum(within) / 2 / share for share in within]
    assert loss.weights.tolist() == pytest.approx(expected, rel=1e-5)
    absent = [name for name, count in zip(assembly.classes.names, assembly.class_pixels, strict=True) if not count]
    assert (
        absent and f"median_frequency weights without a labelled pixel of {one_of(absent)}" in assembly.connections[0]
    )
    assert "without a labelled pixel" not in assembly.connections[1]
