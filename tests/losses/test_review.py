"""Knowledge review: the number of the fixture, loops written from the paper, what padding and neighbours may not do."""

from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.losses.review import Review
from segdistill.mistakes import Mistake


class Through(nn.Module):
    """A level that says what it is given: what is left of the loss is the comparison."""

    def forward(self, stage: Tensor, deeper: Tensor | None, counts: Tensor) -> tuple[Tensor, Tensor]:
        return stage, stage


def comparison(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    loss = Review(channels=(target.shape[1],), student_channels=(student.shape[1],))
    loss.levels[0] = Through()
    return value(loss, [student], [target], mask)


def value(loss: Review, student: list[Tensor], target: list[Tensor], mask: Tensor | None = None) -> Tensor:
    shape = (len(student[0]), *student[-1].shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return loss(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def built(width: int = 6) -> Review:
    """Three levels; the norms have weights and biases that are not 1 and 0."""
    torch.manual_seed(0)
    loss = Review(width, channels=(7, 5, 3), student_channels=(8, 4, 2))
    for name, parameter in loss.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)
    return loss.double()


def stages(
    channels: tuple[int, ...], sizes: tuple[tuple[int, int], ...], images: int = 2, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, c, *size, generator=generator, dtype=torch.float64)
        for c, size in zip(channels, sizes, strict=True)
    ]


def answers(loss: Review, student: list[Tensor]) -> list[Tensor]:
    """What each level says, before it is resized and compared."""
    mixture: Tensor | None = None
    said: list[Tensor] = []
    for level, stage in zip(loss.levels, student, strict=True):
        mixture, answer = level(stage, mixture, torch.ones(len(stage), 1, *stage.shape[-2:], dtype=torch.bool))
        said.append(answer)
    return said


SIZES = ((3, 5), (5, 9), (10, 18))
"""Deepest first; of a crop whose size no power of two divides."""


def ends(images: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    return stages((8, 4, 2), SIZES, images), stages((7, 5, 3), SIZES, images, seed=1)


def test_fixture() -> None:
    """Levels of 2 and 1 rows; 4 is skipped, as the map has no more."""
    ramp = torch.arange(16, dtype=torch.float64).view(1, 1, 4, 4)
    assert float(comparison(ramp, torch.zeros_like(ramp))) == pytest.approx(73.25, abs=1e-9)
    assert float(comparison(ramp, ramp)) == 0


@pytest.mark.parametrize("size", [(9, 18), (5, 5), (6, 3), (2, 7), (1, 1), (1, 4)])
def test_comparison_agrees_with_a_loop(size: tuple[int, int]) -> None:
    height, width = size
    student, target = (stages((3,), (size,), seed=i)[0] for i in range(2))
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0, 0, 0] = True
    grids = [size] + [(rows, max(1, round(rows * width / height))) for rows in (4, 2, 1) if rows < min(size)]
    total, weights, weight = 0.0, 0.0, 1.0
    for rows, columns in grids:
        squares: list[float] = []
        for b in range(2):
            for i in range(rows):
                for j in range(columns):
                    cell = (
                        slice(i * height // rows, ceil((i + 1) * height / rows)),
                        slice(j * width // columns, ceil((j + 1) * width / columns)),
                    )
                    kept = mask[b][cell]
                    if kept.any():
                        for c in range(3):
                            s, t = (x[b, c][cell][kept].mean() for x in (student, target))
                            squares.append(float(s - t) ** 2)
        total += weight * sum(squares) / len(squares)
        weights += weight
        weight /= 2
    assert float(comparison(student, target, mask)) == pytest.approx(total / weights, rel=1e-9)


def test_pools_a_wide_map_to_square_cells() -> None:
    """In 4×8 cells of a 1:2 map, not in 4×4: two neighbouring cells of opposite sign do not cancel."""
    student = torch.ones(1, 1, 8, 16, dtype=torch.float64)
    student[..., 1::4], student[..., 0::4] = -1, -1  # columns − − + + − − + +
    expected = (1 + 1 / 2) / (1 + 1 / 2 + 1 / 4 + 1 / 8)  # full size and 4 rows; 2 rows and 1 see 0
    assert float(comparison(student, torch.zeros_like(student))) == pytest.approx(expected, rel=1e-12)


def test_agrees_with_the_paper_where_all_counts() -> None:
    """Attention-based fusion written out with torch's own GroupNorm, and the comparisons of each level added."""
    loss = built()
    student, target = ends()
    mixture = torch.zeros(0)
    expected = 0.0
    for i, level in enumerate(loss.levels):
        said = {name: p.detach() for name, p in level.named_parameters()}

        def norm(x: Tensor, which: str, said: dict[str, Tensor] = said) -> Tensor:
            return F.group_norm(x, 1, said[f"{which}.weight"].flatten(), said[f"{which}.bias"].flatten())

        own = norm(F.conv2d(student[i], said["enter.weight"]), "enter_norm")
        if i:
            raised = F.interpolate(mixture, own.shape[-2:], mode="nearest")
            weight = torch.cat([said["fuse.of_own.weight"], said["fuse.of_deeper.weight"]], 1)
            gates = F.conv2d(torch.cat([own, raised], 1), weight, said["fuse.of_own.bias"]).sigmoid()
            own = own * gates[:, 0:1] + raised * gates[:, 1:2]
        mixture = own
        answer = norm(F.conv2d(mixture, said["leave.weight"], padding=1), "leave_norm")
        expected += float(comparison(answer, target[i]))
    assert float(value(loss, student, target).detach()) == pytest.approx(expected, rel=1e-10)


def test_padding_is_as_the_border_of_an_image() -> None:
    """What a level says of an image with padding at its right and bottom is what it says of the image alone."""
    level = built().levels[1]
    deeper, stage = stages((6, 4), ((2, 3), (4, 6)))
    counts = torch.ones(2, 1, 4, 6, dtype=torch.bool)
    alone = level(stage, deeper, counts)
    wider = F.pad(deeper, (0, 2, 0, 1), value=9)  # a coarse cell may count where some of its fine ones do not
    padded = level(F.pad(stage, (0, 4, 0, 2), value=torch.inf), wider, F.pad(counts, (0, 4, 0, 2)))
    for whole, part in zip(padded, alone, strict=True):
        torch.testing.assert_close(whole, F.pad(part, (0, 4, 0, 2)), rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(padded[1].square().sum(), list(level.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_masked_pixels_have_no_influence_on_any_stage() -> None:
    loss, sizes = built(), ((2, 3), (4, 6), (8, 12))
    mask = torch.ones(2, 8, 12, dtype=torch.bool)
    mask[0, :, 4:] = False
    mask[1, :4, :4] = False
    student, target = stages((8, 4, 2), sizes), stages((7, 5, 3), sizes, seed=1)
    noisy: tuple[list[Tensor], list[Tensor]] = ([], [])
    for old, new in zip((student, target), noisy, strict=True):
        for stage in old:
            step = 8 // stage.shape[-2]
            new.append(torch.where(mask[:, None, ::step, ::step], stage, 1e6))
    leaves = [stage.requires_grad_() for stage in noisy[0]]
    answer = value(loss, leaves, noisy[1], mask)
    torch.testing.assert_close(answer.detach(), value(loss, student, target, mask).detach(), rtol=1e-10, atol=0)
    for stage, gradient in zip(leaves, torch.autograd.grad(answer, leaves), strict=True):
        away = (stage == 1e6).detach()
        assert away.any() and not gradient[away].any() and gradient.any()


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    """With BatchNorm it would."""
    loss, (student, target) = built(), ends()
    student[0][1] *= 10
    parts = [value(loss, [s[i : i + 1] for s in student], [t[i : i + 1] for t in target]) for i in range(2)]
    torch.testing.assert_close(value(loss, student, target), (parts[0] + parts[1]) / 2, rtol=1e-10, atol=0)


def test_deeper_stages_are_seen_by_shallower_levels_only() -> None:
    loss, (student, _) = built(), ends()
    leaves = [stage.requires_grad_() for stage in student]
    reached = []
    for said in answers(loss, leaves):
        gradients = torch.autograd.grad(said.square().sum(), leaves, retain_graph=True, materialize_grads=True)
        reached.append([bool(gradient.any()) for gradient in gradients])
    assert reached == [[True, False, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize("sizes", [((3, 5), (4, 8), (10, 18)), ((1, 1), (2, 3), (20, 30)), ((6, 10), (6, 10), (6, 10))])
def test_targets_of_another_size(sizes: tuple[tuple[int, int], ...]) -> None:
    """A student level is raised to its target; a target of the student's own size is the special case."""
    loss, (student, _) = built(), ends()
    target = stages((7, 5, 3), sizes, seed=1)
    expected = sum(
        float(comparison(F.interpolate(said.detach(), size, mode="bilinear"), theirs))
        for said, theirs, size in zip(answers(loss, student), target, sizes, strict=True)
    )
    assert float(value(loss, student, target).detach()) == pytest.approx(expected, rel=1e-10)


def test_one_stage_of_one_cell_in_a_batch_of_one() -> None:
    """Where BatchNorm has nothing to normalise over."""
    loss = Review(channels=(3,), student_channels=(2,))
    student = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    answer = value(loss, [student], [torch.ones(1, 3, 1, 1)])
    (gradient,) = torch.autograd.grad(answer, student)
    assert answer > 0 and gradient.isfinite().all()


def test_every_parameter_is_used() -> None:
    """One that is not would stop DistributedDataParallel."""
    loss, (student, target) = built(), ends()
    value(loss, student, target).backward()
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize(("width", "expected"), [(512, 8), (6, 6)])
def test_width_is_at_most_the_deepest_stages(width: int, expected: int) -> None:
    """Input, gates and output of each level, and the weights and biases of its norms."""
    count = sum(p.numel() for p in built(width).parameters())
    w = expected
    gates = 2 * (2 * w * 2 + 2)
    assert count == w * (8 + 4 + 2) + gates + 9 * w * (7 + 5 + 3) + 2 * (3 * w + 7 + 5 + 3)


def test_an_empty_mask_gives_an_attached_zero() -> None:
    loss, (student, target) = built(), ends()
    leaves = [stage.requires_grad_() for stage in student]
    answer = value(loss, leaves, target, torch.zeros(2, 10, 18, dtype=torch.bool))
    assert answer == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(answer, leaves))


def test_stages_the_other_way_round_are_a_mistake() -> None:
    loss, (student, target) = Review(channels=(3, 5, 7), student_channels=(2, 4, 8)).double(), ends()
    with pytest.raises(
        Mistake, match=r"^student: expected the stages deepest first, got stages with \[10, 5, 3\] rows$"
    ):
        value(loss, student[::-1], target[::-1], torch.ones(2, 10, 18, dtype=torch.bool))


def test_width_out_of_range() -> None:
    with pytest.raises(Mistake, match=r"^width: expected at least 1, got 0$"):
        Review(0, channels=(4,), student_channels=(4,))
