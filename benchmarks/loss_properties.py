"""The table of docs/losses.md: every loss, the fixture of its mathematics, and what it keeps; float64 where it matters.

python benchmarks/loss_properties.py > table.md
"""

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segdistill import parts
from segdistill.losses import Loss
from segdistill.testing.losses import (
    Example,
    LossSuite,
    ask,
    example,
    in_two_processes,
    learns_from_target,
    slope,
    value,
    value_with,
)
from segdistill.types import IGNORE


def tensor(values: Any, *shape: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(*shape)


class Fixture(NamedTuple):
    """Arguments, what a recipe says, and the value that the mathematics gives by hand or in the reference's code."""

    name: str
    given: Example
    settings: dict[str, Any]
    expected: float


def given(student: Tensor, target: Tensor, labels: list[Any]) -> Example:
    known = torch.tensor(labels)
    return Example(student, target, known, torch.ones(known.shape, dtype=torch.bool))


S = tensor([[1, 0.5], [0.5, 1], [0, -0.5]], 1, 3, 1, 2)
T = tensor([[2, 0], [0, 1], [-1, 0.5]], 1, 3, 1, 2)
PIXELS = given(S, T, [[[0, 1]]])
"""Two pixels of three classes."""
S4 = tensor([[[1, 0.5], [0, -1]], [[0.5, 1], [0, 1]], [[0, -0.5], [1, 0]]], 1, 3, 2, 2)
T4 = tensor([[[2, 0], [1, -1]], [[0, 1], [0, 2]], [[-1, 0.5], [3, 0]]], 1, 3, 2, 2)
FOUR = given(S4, T4, [[[0, 1], [2, 1]]])
FS, FT = (
    tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]]], 1, 2, 2, 2),
    tensor([[[1, 1], [0, 0]], [[0, 1], [1, 0.5]]], 1, 2, 2, 2),
)
CELLS = given(FS, FT, [[[0, 0], [1, 1]]])
"""Four cells of two channels."""
TWO = given(torch.cat([FS, FS.flip(3)]), torch.cat([FT, FT.flip(2)]), [[[0, 0], [1, 1]]] * 2)
ONE = given(tensor([2, 0, -1], 1, 3, 1, 1), tensor([2, 0, -1], 1, 3, 1, 1), [[[0]]])

FIXTURES = {
    "cross_entropy": Fixture("z = (2, 0, −1)", ONE, {}, 0.169846),
    "confidence_penalty": Fixture("z = (2, 0, −1): ln 3 − H", ONE, {}, 0.574345),
    "entropy_floor": Fixture("z = (2, 0, −1), floor 1", ONE, {"floor": 1.0}, 0.475733),
    "logit_norm": Fixture("z = (2, 0, −1), τ = 1", ONE, {"temperature": 1.0}, 0.512978),
    "focal": Fixture("z = (2, 0, −1), γ = 2", ONE, {"gamma": 2.0}, 0.004144),
    "dice": Fixture("two pixels", PIXELS, {"smooth": 0.0}, 0.429601),
    "tversky": Fixture("two pixels", PIXELS, {"smooth": 0.0}, 0.448007),
    "lovasz": Fixture("two pixels", PIXELS, {}, 0.473485),
    "soft_targets": Fixture("two pixels, T = 2", PIXELS, {"temperature": 2.0}, 0.266194),
    "decoupled": Fixture("two pixels, β = 8, T = 4", PIXELS, {"non_target_weight": 8.0, "temperature": 4.0}, 1.433106),
    "dist": Fixture("four pixels", FOUR, {}, 0.110670 + 0.080050),
    "channel_wise": Fixture("two pixels, τ = 4", PIXELS, {"temperature": 4.0}, 0.264987),
    "standardised_logits": Fixture("two pixels, T = 2", PIXELS, {"temperature": 2.0}, 0.169653),
    "weighted_soft_targets": Fixture("two pixels, T = 2", PIXELS, {"temperature": 2.0}, 0.228478),
    "hint": Fixture("four cells", CELLS, {}, 0.281250),
    "standardised_hint": Fixture("four cells", CELLS, {}, 0.423603),
    "attention": Fixture("four cells", CELLS, {}, 0.618447),
    "masked_generation": Fixture("four cells, generator = identity, nothing hidden", CELLS, {"ratio": 0.0}, 0.281250),
    "pairwise_affinity": Fixture("four cells, no pooling", CELLS, {"pool": 1}, 0.146447),
    "intra_class": Fixture("four cells", CELLS, {}, 0.026807),
    "cross_image": Fixture("two images, τ = 0.1", TWO, {"temperature": 0.1, "pool": 1}, 2.196110),
}


def main() -> None:
    columns = ["loss", "fixture", "expected", "got", "equal ends", "gradcheck", "±200", "nothing", "masked", "halves"]
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for name in parts.names("losses"):
        loss = filled(name)
        cells = [
            *fixture(name),
            equality(loss),
            gradcheck(loss),
            finite(loss),
            nothing(loss),
            masked(loss),
            split(loss),
        ]
        print(f"| `{name}` | {' | '.join(cells)} |")


def filled(name: str) -> Loss:
    loss = LossSuite.build(name)
    for seed in range(20 if loss.silent_at_first else 0):
        ask(loss, example(seed=seed))
    return loss


def fixture(name: str) -> list[str]:
    if name not in FIXTURES:
        return ["see its test", "", ""]
    what, arguments, settings, expected = FIXTURES[name]
    part = parts.find("losses", name, name)
    classes = int(arguments.labels.max()) + 1 if arguments.student.shape[1] != 3 else 3
    loss = parts.build(
        part,
        parts.settings(part, settings, name),
        num_classes=classes,
        class_pixels=[1] * classes,
        class_image_pixels=[1] * classes,
        channels=arguments.target.shape[1],
        student_channels=arguments.student.shape[1],
        seed=0,
    )
    if name == "masked_generation":
        loss.generation = nn.Identity()
    return [what, f"{expected:.6f}", f"{float(loss.double()(*arguments)):.6f}"]


def equality(loss: Loss) -> str:
    if not learns_from_target(loss):
        return "labels"
    same = example().to(torch.float64)
    number = float(value(deepcopy(loss).double(), same._replace(target=same.student)).detach())
    own = any(True for _ in loss.parameters())
    return f"{number:.2g} (own layers)" if own else f"{number:.1e}"


def gradcheck(loss: Loss) -> str:
    """|directional derivative − central difference|, relative; what is detached stands still."""
    loss = deepcopy(loss).double()
    start = example(images=2).to(torch.float64)
    torch.manual_seed(0)
    direction, constants = torch.randn_like(start.student), list[Tensor]()

    def along(distance: float) -> float:
        moved = start._replace(student=start.student + distance * direction)
        return float(value_with(constants, loss, moved).detach())

    student = start.student.clone().requires_grad_()
    answer = value_with(constants, loss, start._replace(student=student))
    (gradient,) = torch.autograd.grad(answer, student)
    exact, h = float((gradient * direction).sum()), 1e-6
    numeric = (along(h) - along(-h)) / (2 * h)
    return f"{abs(exact - numeric) / max(abs(exact), 1e-12):.0e}"


def finite(loss: Loss) -> str:
    start = example()
    answer, gradient = slope(
        loss, start._replace(student=200 * start.student.sign(), target=-200 * start.target.sign())
    )
    return f"{float(answer):.3g}" if answer.isfinite() and gradient.isfinite().all() else "NOT FINITE"


def nothing(loss: Loss) -> str:
    start = example()
    empty = start._replace(mask=torch.zeros_like(start.mask), labels=torch.full_like(start.labels, IGNORE))
    answer, gradient = slope(loss, empty)
    return f"{float(answer):g}, {float(gradient.abs().max()):g}"


def masked(loss: Loss) -> str:
    start, noise = example(), example(seed=1, spread=50.0)
    away = ~start.mask[:, None].expand_as(start.student)
    changed = Example(
        torch.where(away, noise.student, start.student),
        torch.where(away, noise.target, start.target),
        torch.where(start.mask, start.labels, IGNORE),
        start.mask,
    )
    return f"{float((value(loss, changed) - value(loss, start)).detach().abs()):.0e}"


def split(loss: Loss) -> str:
    """|gradient of the whole batch − mean of two processes' gradients| / the largest, with void spread unevenly."""
    start = example()
    if loss.per_batch:
        return "per batch"
    if not torch.equal(ask(copy := deepcopy(loss), start), ask(copy, start)):
        return "random"
    _, whole = slope(loss, start)
    halves = in_two_processes(lambda rank: slope(loss, start.of(slice(2 * rank, 2 * rank + 2)))[1])
    return f"{float((torch.cat(halves) / 2 - whole).abs().max() / whole.abs().max()):.0e}"


if __name__ == "__main__":
    main()
