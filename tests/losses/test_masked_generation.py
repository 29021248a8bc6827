"""Masked generation: the number of the fixture, a loop written from the formula, and what is drawn."""

import io
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from segdistill.losses.masked_generation import MaskedGeneration
from segdistill.mistakes import Mistake

# Two channels of 2×2 cells.
STUDENT = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)[None]
TARGET = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], dtype=torch.float64)[None]


def value(loss: MaskedGeneration, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    shape = (len(student), *student.shape[-2:])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return loss(student, target, torch.zeros(mask.shape, dtype=torch.int64), mask)


def identity(ratio: float = 0.75, seed: int = 0) -> MaskedGeneration:
    loss = MaskedGeneration(ratio, channels=2, seed=seed)
    loss.generation = nn.Identity()
    return loss


def built(seed: int = 0, width: int = 256) -> MaskedGeneration:
    torch.manual_seed(0)
    return MaskedGeneration(0.5, width, channels=5, seed=seed).double()


def random_pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, target = (3 * torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, target


def hidden(loss: MaskedGeneration, images: int = 1, height: int = 64, width: int = 64) -> Tensor:
    """What one step hides from the generator: [b, h, w]."""
    seen = torch.zeros(images, 2, height, width)

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.copy_(given[0])

    loss.generation.register_forward_pre_hook(look)
    value(loss, torch.ones_like(seen), torch.zeros_like(seen))
    assert torch.equal(seen[:, 0], seen[:, 1])  # all channels of a cell or none
    return seen[:, 0] == 0


def test_fixture() -> None:
    """With an identity for a generator and nothing hidden; the paper's sum per image is 2.25."""
    for loss in (identity(0.0), identity().eval()):
        assert float(value(loss, STUDENT, TARGET)) == pytest.approx(0.281250, abs=5e-7)


def test_agrees_with_a_loop() -> None:
    loss = built()
    student, target = random_pair()
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    left = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0)) >= 0.5
    squares: list[float] = []
    first, _, last = loss.generation.children()
    for b in range(2):
        seen = student[b].clone()
        for i in range(4):
            for j in range(6):
                if not (mask[b, i, j] and left[b, 0, i, j]):
                    seen[:, i, j] = 0
        made = last(first(seen[None]).clamp(min=0))[0].detach()
        squares += [
            float(made[c, i, j] - target[b, c, i, j]) ** 2 for i, j in mask[b].nonzero().tolist() for c in range(5)
        ]
    answer = value(loss, student, target, mask).detach()
    assert float(answer) == pytest.approx(sum(squares) / len(squares), rel=1e-10)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75])
def test_hides_the_ratio_of_cells(ratio: float) -> None:
    share = float(hidden(identity(ratio), images=4).float().mean())  # of 16 384 cells
    assert share == pytest.approx(ratio, abs=4 * 0.5 / 128)


def test_what_is_left_is_not_scaled_up() -> None:
    """The identity's error is what was hidden: the ratio of the target's square, and nothing at the cells left."""
    target = torch.ones(4, 2, 64, 64)
    assert float(value(identity(0.75), target, target)) == pytest.approx(0.75, abs=4 * 0.5 / 128)


def test_draws_anew_in_each_step_and_image_and_the_same_for_a_seed() -> None:
    loss, again, other = identity(), identity(), identity(seed=1)
    first, second = hidden(loss, images=2), hidden(loss, images=2)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert torch.equal(hidden(again, images=2), first) and torch.equal(hidden(again, images=2), second)
    assert not torch.equal(hidden(other, images=2), first)


def test_takes_nothing_from_the_global_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    loss = identity()
    torch.manual_seed(7)
    hidden(loss)
    assert torch.equal(torch.rand(1), expected)


def test_evaluation_hides_nothing_and_draws_nothing() -> None:
    loss = identity()
    before = loss.get_extra_state()
    assert not hidden(loss.eval()).any()
    assert torch.equal(loss.get_extra_state(), before)


def test_goes_on_from_a_state_dict_as_if_never_stopped() -> None:
    loss, fresh = built(), built(seed=5)
    pair = random_pair()
    value(loss, *pair)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    copy = deepcopy(loss)
    for _ in range(3):
        expected = value(loss, *pair)
        assert torch.equal(value(fresh, *pair), expected)
        assert torch.equal(value(copy, *pair), expected)
    assert loss.get_extra_state().dtype == torch.uint8


def test_hidden_cells_have_no_gradient_but_count() -> None:
    loss = identity(0.75)
    left = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)) >= 0.75
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(loss, student, TARGET), student)
    torch.testing.assert_close(gradient, 2 * (STUDENT - TARGET) * left / 8, rtol=1e-12, atol=0)


def test_padding_does_not_leak_through_the_kernels() -> None:
    """A counting cell's neighbour may be padding: the generator must not see it."""
    student, target = random_pair()
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[:, :, 3:] = False
    padded = torch.where(mask[:, None], student, torch.inf).requires_grad_()
    answer = value(built(), padded, target, mask)
    (gradient,) = torch.autograd.grad(answer, padded)
    assert torch.equal(answer.detach(), value(built(), student, target, mask).detach())
    assert gradient.isfinite().all() and not gradient[..., 3:].any()


@pytest.mark.parametrize(("width", "expected"), [(256, 18 * 25 + 10), (2, 18 * 10 + 7)])
def test_width_limits_the_generator(width: int, expected: int) -> None:
    assert sum(p.numel() for p in built(width=width).parameters()) == expected


def test_the_generator_learns() -> None:
    loss = built()
    value(loss, *random_pair()).backward()
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize(("ratio", "width", "named"), [(1.0, 8, "ratio"), (-0.1, 8, "ratio"), (0.5, 0, "width")])
def test_settings_out_of_range(ratio: float, width: int, named: str) -> None:
    with pytest.raises(Mistake, match=f"^{named}: expected at least .*, got "):
        MaskedGeneration(ratio, width, channels=4, seed=0)
