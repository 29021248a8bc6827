"""What every loss has to keep, whatever it computes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from copy import deepcopy
from typing import NamedTuple, TypeVar
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from segdistill import parts
from segdistill.losses import Loss
from segdistill.recipe import LABELS, LossSpec
from segdistill.system import Edge, Tap
from segdistill.testing._suite import Suite
from segdistill.types import IGNORE, Batch

K = 4
HEIGHT, WIDTH = 8, 16
CELL = 4
"""Labels and masks are constant in cells of 4×4 pixels, so that they mean the same at a quarter of the size."""

Answer = TypeVar("Answer")


class LossSuite(Suite):
    """What a loss has to keep; nothing here asks for its name.

    What kind a loss is, is seen from what it does: whether its value moves with the target (distillation), with the
    labels (supervision) or with neither (a penalty), whether it is the same in two calls, and whether it has parameters
    of its own. It is built for 4 classes, and for stages of 4 channels at both ends.
    """

    shelf = "losses"

    @classmethod
    def build(cls, kind: str, channels: int = K) -> Loss:
        """The loss with its settings, for a target of so many channels; the same weights every time."""
        torch.manual_seed(0)
        part = cls.part(kind)
        built = cls.make(
            kind,
            cls.settings.get(kind, {}),
            num_classes=K,
            class_pixels=[400, 300, 200, 100],
            class_image_pixels=[1000, 1000, 500, 500],
            channels=(channels, channels) if part.several else channels,
            student_channels=(K, K) if part.several else K,
            seed=0,
        )
        assert isinstance(built, Loss)
        return built

    @pytest.fixture
    def loss(self, kind: str) -> Loss:
        """The loss, with its memory filled where it has one."""
        loss = self.build(kind)
        for seed in range(20):
            if not loss.silent_at_first or value(loss, example()) != 0:
                break
            ask(loss, example(seed=seed))
        return loss

    def test_parameters_do_not_hide_what_an_edge_says(self, kind: str) -> None:
        assert not set(parts.signature(self.part(kind))) & set(LossSpec.model_fields)

    def test_a_loss_is_a_float32_scalar_that_moves_the_student(self, kind: str, loss: Loss) -> None:
        for stride in strides(loss):
            answer, gradient = slope(loss, example(stride))
            assert answer.shape == () and answer.dtype == torch.float32
            assert gradient.abs().sum() > 0
        first, gradient = slope(self.build(kind), example())
        assert (first == 0 and not gradient.any()) == loss.silent_at_first

    def test_channels_differ_where_it_says_so(self, kind: str) -> None:
        """A loss that says `same_channels = False`, or takes several stages, gets no adapter from the edge."""
        loss = self.build(kind, channels=K + 2)
        if (loss.same_channels and not loss.several) or not loss.needs_target:
            pytest.skip("the edge brings both ends to the same channels")
        given = example()
        answer = value(loss, given._replace(target=torch.cat([given.target, given.target[:, :2]], 1)))
        assert answer.isfinite()

    def test_never_negative(self, loss: Loss) -> None:
        """A penalty that looks at nobody else may go down to minus the largest entropy."""
        lowest = 0.0 if learns_from_target(loss) or learns_from_labels(loss) else -torch.log(torch.tensor(float(K)))
        for stride in strides(loss):
            for seed in range(10):
                assert value(loss, example(stride, seed=seed)) >= lowest - 1e-6

    def test_zero_at_equality(self, loss: Loss) -> None:
        if not learns_from_target(loss):
            pytest.skip("learns from labels")
        if has_parameters(loss):
            pytest.skip("its own untrained parameters stand between student and target")
        for stride in strides(loss):
            given = example(stride)
            answer, gradient = slope(loss, given._replace(target=given.student))
            assert abs(answer) <= 1e-6
            assert gradient.abs().max() <= 1e-5
            assert value(loss, given) > 1e-3

    def test_masked_pixels_have_no_influence(self, loss: Loss) -> None:
        for stride in strides(loss):
            given = example(stride)
            cell = CELL // stride
            counts = given.mask[:, ::CELL, ::CELL].repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, None]
            away = ~counts.expand_as(given.student)
            assert away.any() and not away.all()
            before, gradient = slope(loss, given)
            noise = example(stride, seed=1, spread=50.0)
            for labels in (torch.tensor(IGNORE), (given.labels + 1) % K):
                changed = Example(
                    torch.where(away, noise.student, given.student),
                    torch.where(away, noise.target, given.target),
                    torch.where(given.mask, given.labels, labels),
                    given.mask,
                )
                after, other = slope(loss, changed)
                torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-7)
                torch.testing.assert_close(other, gradient, rtol=1e-5, atol=1e-7)
            assert not gradient[away].any()

    def test_an_empty_mask_gives_an_attached_zero(self, loss: Loss) -> None:
        for stride in strides(loss):
            given = example(stride)
            nothing = [given._replace(mask=torch.zeros_like(given.mask))]
            if learns_from_labels(loss) and not learns_from_target(loss):
                nothing.append(given._replace(labels=torch.full_like(given.labels, IGNORE)))
            for empty in nothing:
                answer, gradient = slope(loss, empty)  # fails when it is not attached to the graph
                assert answer == 0
                assert not gradient.any()

    def test_gradcheck(self, loss: Loss) -> None:
        """What a loss detaches is a constant of its gradient: beside the point it stays what it was at the point."""
        tried, loss = strides(loss), loss.double()
        for stride in tried:
            given = example(stride, images=2).to(torch.float64)
            constants: list[Tensor] = []

            def scalar(student: Tensor, given: Example = given, constants: list[Tensor] = constants) -> Tensor:
                return value_with(constants, loss, given._replace(student=student))

            assert scalar(given.student).dtype == torch.float64
            assert torch.autograd.gradcheck(scalar, given.student.requires_grad_(), fast_mode=True)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_raised(self, loss: Loss, dtype: torch.dtype) -> None:
        for stride in strides(loss):
            rounded = example(stride).to(dtype)
            answer = value(loss, rounded)
            assert answer.dtype == torch.float32
            torch.testing.assert_close(answer, value(loss, rounded.to(torch.float32)), rtol=1e-3, atol=1e-5)

    def test_the_edge_shields_it_from_autocast(self, loss: Loss) -> None:
        given = example()
        expected = value(loss, given)
        with torch.autocast("cpu", torch.bfloat16):
            answer = deepcopy(edge(loss))(said(given.student, given.target), batch(given))
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-7)

    def test_finite_for_large_logits(self, loss: Loss) -> None:
        for stride in strides(loss):
            given = example(stride)
            for sign in (1, -1):
                large = given._replace(student=200 * given.student.sign(), target=sign * 200 * given.target.sign())
                answer, gradient = slope(loss, large)
                assert answer.isfinite()
                assert gradient.isfinite().all()

    def test_two_processes_give_what_one_gives(self, loss: Loss) -> None:
        """Mean over the ranks of value and gradient, with void and mask spread unevenly; one rank may have nothing."""
        if is_per_batch(loss) or not is_steady(loss):
            pytest.skip("compares the images of one process with each other, or draws")
        for stride in strides(loss):
            whole = example(stride)
            nothing = whole.mask.clone()
            nothing[2:] = False
            for given in (whole, whole._replace(mask=nothing)):
                expected, gradient = slope(loss, given)
                halves = in_two_processes(lambda r, g=given: slope(loss, g.of(slice(2 * r, 2 * r + 2))))
                torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, expected, rtol=1e-5, atol=1e-7)
                both = torch.cat([halves[0][1], halves[1][1]]) / 2
                torch.testing.assert_close(both, gradient, rtol=1e-4, atol=1e-7)

    def test_independent_of_the_size_of_a_crop(self, loss: Loss) -> None:
        """The image with its mirror image beside it has the same value: one weight serves every size of crop."""
        if not is_steady(loss):
            pytest.skip("draws")
        if any(p.ndim == 4 and p.shape[-1] > 1 for p in loss.parameters()):
            pytest.skip("its own kernels see the border")
        for stride in strides(loss):
            given = example(stride)
            twice = Example(*(torch.cat([tensor, tensor.flip(-1)], -1) for tensor in given))
            tolerance = 5e-2 if is_per_batch(loss) else 1e-5  # n − 1 for n, absolute smoothing constants
            torch.testing.assert_close(value(loss, twice), value(loss, given), rtol=tolerance, atol=1e-6)

    def test_the_target_gets_no_gradient(self, loss: Loss) -> None:
        if not learns_from_target(loss):
            pytest.skip("learns from labels")
        for stride in strides(loss):
            given = example(stride)
            student, target = given.student.requires_grad_(), given.target.requires_grad_()
            edge(loss)(said(student, target), batch(given)).backward()
            assert target.grad is None
            assert student.grad is not None and student.grad.any()

    def test_no_hidden_wait_for_the_device(self, loss: Loss) -> None:
        """On the meta device there are no values: whoever asks for one (`.item()`, `if tensor`, `x[mask]`) fails."""
        if not is_steady(loss):
            pytest.skip("draws on the CPU")
        for stride in strides(loss):
            given = Example(*(tensor.to("meta") for tensor in example(stride)))
            answer = ask(deepcopy(loss).to("meta"), given._replace(student=given.student.requires_grad_()))
            assert answer.shape == ()
            answer.backward()

    def test_a_state_survives(self, kind: str, loss: Loss) -> None:
        """What a loss learned or remembers is in its state_dict: a fresh one filled with it goes on as the old one."""
        given = example()
        ask(loss, given)
        fresh = self.build(kind)
        fresh.load_state_dict(loss.state_dict())
        assert torch.equal(value(fresh, given), value(loss, given))


class Example(NamedTuple):
    """The arguments of a loss."""

    student: Tensor
    target: Tensor
    labels: Tensor
    mask: Tensor

    def of(self, images: slice) -> "Example":
        return Example(*(tensor[images] for tensor in self))

    def to(self, dtype: torch.dtype) -> "Example":
        return self._replace(student=self.student.to(dtype), target=self.target.to(dtype))


def example(stride: int = 1, images: int = 4, seed: int = 0, spread: float = 2.0) -> Example:
    """Random stages, every class in every image, some void, some of it outside the mask; unevenly over the images."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, K, HEIGHT // stride, WIDTH // stride)
    student, target = (spread * torch.randn(shape, generator=generator) for _ in range(2))
    cells = torch.stack([torch.randperm(2 * K, generator=generator) for _ in range(images)])
    coarse = (cells % K).view(images, 2, K)  # each class in two of eight cells
    coarse[0, 0, 0] = IGNORE
    counts = torch.ones(images, 2, K, dtype=torch.bool)
    counts[0, 1, 1:] = False
    counts[images - 1, 0, 2] = False
    return Example(student, target, enlarge(coarse), enlarge(counts))


def enlarge(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)


def value(loss: Loss, given: Example) -> Tensor:
    """Of a copy: a loss may remember what it has seen."""
    return ask(deepcopy(loss), given)


def value_with(constants: list[Tensor], loss: Loss, given: Example) -> Tensor:
    """The value with what the loss detaches as it was in the first call, which fills the list."""
    earlier, detach = iter(list(constants)), Tensor.detach
    copy = deepcopy(loss)

    def constant(tensor: Tensor) -> Tensor:
        if (known := next(earlier, None)) is None:
            constants.append(known := detach(tensor).clone())
        return known

    with patch.object(Tensor, "detach", constant):
        return ask(copy, given)


def ask(loss: Loss, given: Example) -> Tensor:
    """The loss of an example; one over several stages is given the stage twice."""
    student, target = ([x, x] if loss.several else x for x in (given.student, given.target))
    return loss(student, target, given.labels, given.mask)


def slope(loss: Loss, given: Example) -> tuple[Tensor, Tensor]:
    """The value and its gradient for the student."""
    student = given.student.clone().requires_grad_()
    answer = value(loss, given._replace(student=student))
    (gradient,) = torch.autograd.grad(answer, student)
    return answer.detach(), gradient


def learns_from_target(loss: Loss) -> bool:
    given = example()
    return not torch.equal(value(loss, given), value(loss, given._replace(target=example(seed=1).target)))


def learns_from_labels(loss: Loss) -> bool:
    given = example()
    others = torch.where(given.labels == IGNORE, IGNORE, (given.labels + 1) % K)
    return not torch.equal(value(loss, given), value(loss, given._replace(labels=others)))


def is_steady(loss: Loss) -> bool:
    """Whether a second call answers as the first: neither random nor with a memory."""
    loss, given = deepcopy(loss), example()
    return torch.equal(ask(loss, given), ask(loss, given))


def has_parameters(loss: Loss) -> bool:
    return any(True for _ in loss.parameters())


def is_per_batch(loss: Loss) -> bool:
    """Whether the class says that images of one batch are compared, so that halves do not add up."""
    return loss.per_batch


def strides(loss: Loss) -> list[int]:
    """Labels are as large as the student that learns from them; a target's grid may be coarser."""
    return [1, CELL] if learns_from_target(loss) else [1]


def edge(loss: Loss) -> Edge:
    stages = ("dec2", "dec1") if loss.several else ("dec1",)
    return Edge(loss, Tap("student", stages), Tap("teacher", stages) if learns_from_target(loss) else Tap(LABELS))


def said(student: Tensor, target: Tensor) -> dict[str, dict[str, Tensor]]:
    """By the two nodes."""
    return {"student": {"dec2": student, "dec1": student}, "teacher": {"dec2": target, "dec1": target}}


def batch(given: Example) -> Batch:
    image = torch.zeros(len(given.labels), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    return Batch(image, given.labels, ~given.mask, tuple(map(str, range(len(image)))))


def in_two_processes(work: Callable[[int], Answer]) -> list[Answer]:
    """`work(rank)` of two ranks, each in a thread; sums over ranks really wait for each other."""
    barrier, lock = threading.Barrier(2, timeout=20), threading.Lock()
    here = threading.local()
    offered: dict[int, Tensor] = {}

    def all_reduce(tensor: Tensor, *_: object, **__: object) -> None:
        with lock:
            offered[here.rank] = tensor.clone()
        barrier.wait()
        total = offered[0] + offered[1]
        barrier.wait()
        tensor.copy_(total)

    def run(rank: int) -> Answer:
        here.rank = rank
        with ExitStack() as failing:
            failing.callback(barrier.abort)  # the other rank does not wait for one that is no more
            answer = work(rank)
            failing.pop_all()
        return answer

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as ranks:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_world_size", lambda *_: 2)  # pyright: ignore[reportUnknownLambdaType]
        patch.setattr(torch.distributed, "get_rank", lambda *_: here.rank)  # pyright: ignore[reportUnknownLambdaType]
        patch.setattr(torch.distributed, "all_reduce", all_reduce)
        running = [ranks.submit(run, rank) for rank in range(2)]
        wait(running)
    # The rank that failed by itself before the one that lost its neighbour.
    for each in sorted(running, key=lambda one: isinstance(one.exception(), threading.BrokenBarrierError)):
        each.result()
    return [each.result() for each in running]
