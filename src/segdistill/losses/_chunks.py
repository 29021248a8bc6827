"""A loss in chunks that fit the processor's cache, with few tensors of full size: one gradient, or nothing, is kept.

Plain autograd keeps what every operation on a batch made, five to fifteen tensors as large as the logits, and moves all
of them through memory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segdistill.losses import at_least_float32

ON_CPU, ELSEWHERE = 2**18, 2**23
"""Numbers in a chunk: a megabyte in float32 stays in the cache, and a GPU wants few and large kernels."""

IMAGES, PIXELS, MAPS, CHANNELS, NOWHERE = (0,), (0, 2), (0, 1), (1,), ()
"""Where [b, c, h, w] may be cut: images; images, then rows; images, then channels; channels of the whole batch."""

Work = Callable[..., tuple[Tensor, Tensor]]
"""(student, *others) of a chunk -> values, of size 1 where they sum up, and the gradient of their sum; no autograd."""

Sums = Callable[..., tuple[Tensor, ...]]
"""(student, *others) of a chunk -> values, of size 1 where they sum up."""

Gradient = Callable[..., Tensor]
"""(slopes of the values, student, *others) of a chunk -> the gradient for the student; no autograd."""


def in_chunks(work: Work, along: Sequence[int], student: Tensor, *others: Tensor) -> Tensor:
    """The values of all chunks side by side, where each depends on one pixel (one map, one channel) of the student.

    The gradient is found with the values: their slopes, which come later, only scale it. Keeps one tensor of the
    student's size, which becomes its gradient; a second backward through the graph computes it again. The others, which
    have no gradient, are [b, c, h, w] as well, or of size 1 where they are the same. No gradient of the gradient.
    """
    learns = torch.is_grad_enabled() and student.requires_grad
    values: Tensor = _WithGradient.apply(work, along, learns, student, *others)  # pyright: ignore[reportUnknownMemberType]
    return values


def by_autograd(function: Callable[..., Tensor]) -> Work:
    """Work whose gradient nobody wrote down."""

    def work(student: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values = function(student.requires_grad_(), *others)
        return values, torch.autograd.grad(values, student, torch.ones_like(values))[0]

    return work


def sums_in_chunks(
    function: Sums, along: Sequence[int], student: Tensor, *others: Tensor, gradient: Gradient | None = None
) -> tuple[Tensor, ...]:
    """The values of all chunks side by side, for sums over several chunks: their slopes are known when all are there.

    Keeps nothing and computes each chunk twice, in backward with autograd where nobody wrote the gradient down; else as
    `in_chunks`.
    """
    values: tuple[Tensor, ...] = _Again.apply(function, gradient, along, student, *others)  # pyright: ignore[reportUnknownMemberType]
    return values


def bits(counts: Tensor, like: Tensor) -> Tensor:
    """Counts for `kept`, made once where the chunks share them: all bits of a number of that type, or none."""
    return -counts.to(torch.int64 if like.dtype == torch.float64 else torch.int32)


def kept(x: Tensor, counts: Tensor) -> Tensor:
    """x where it counts (bool, or `bits`), elsewhere 0 whatever stands there; in at least float32.

    As `torch.where`, which takes five times as long on a CPU.
    """
    values: Tensor = _Kept.apply(at_least_float32(x), counts)  # pyright: ignore[reportUnknownMemberType]
    return values


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(counts)
        return _masked(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _masked(slopes, *ctx.saved_tensors), None


def _masked(x: Tensor, counts: Tensor) -> Tensor:
    mask = bits(counts, x) if counts.dtype == torch.bool else counts
    return (x.view(mask.dtype) & mask).view(x.dtype)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, along: Sequence[int], learns: bool, student: Tensor, *others: Tensor) -> Tensor:
        ctx.function, ctx.along = work, along
        ctx.save_for_backward(student, *others)
        ctx.gradient = torch.empty_like(student) if learns else None
        return _work(work, along, ctx.gradient, student, others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        student, *others = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # the first backward gave it away
            gradient = torch.empty_like(student)
            _work(ctx.function, ctx.along, gradient, student, others)
        return None, None, None, gradient.mul_(slopes), *(None for _ in others)


def _work(
    work: Callable[..., tuple[Tensor, ...]],
    along: Sequence[int],
    gradient: Tensor | None,
    student: Tensor,
    others: Sequence[Tensor],
) -> Tensor:
    """The values; the gradient of their sum is written where one is wanted."""
    sizes = _sizes(student, along)
    into = _cut(student if gradient is None else gradient, along, sizes)
    values: list[Tensor] = []
    for part, chunk in zip(into, _chunks(student, others, along, sizes), strict=True):
        value, slopes = work(*chunk)
        values.append(value)
        if gradient is not None:
            part.copy_(slopes)
    return _joined(values, student, along, sizes)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Sums, gradient: Gradient | None, along: Sequence[int], student: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.along, ctx.gradient = along, gradient or partial(_by_autograd, function)
        ctx.save_for_backward(student, *others)
        sizes = _sizes(student, along)
        values = [function(*chunk) for chunk in _chunks(student, others, along, sizes)]
        return tuple(_joined(list(each), student, along, sizes) for each in zip(*values, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        student, *others = ctx.saved_tensors
        sizes = _sizes(student, ctx.along)
        gradient = torch.empty_like(student)
        into = _cut(gradient, ctx.along, sizes)
        parts = zip(*(_cut(each, ctx.along, _lengths(each, student, ctx.along, sizes)) for each in slopes), strict=True)
        for part, slope, chunk in zip(into, parts, _chunks(student, others, ctx.along, sizes), strict=True):
            part.copy_(ctx.gradient(slope, *chunk))
        return None, None, None, gradient, *(None for _ in others)


def _by_autograd(function: Sums, slopes: Sequence[Tensor], student: Tensor, *others: Tensor) -> Tensor:
    with torch.enable_grad():
        values = function(student.requires_grad_(), *others)
    # Counts, for example, have no gradient.
    learning = [(value, slope) for value, slope in zip(values, slopes, strict=True) if value.requires_grad]
    return torch.autograd.grad([value for value, _ in learning], student, [slope for _, slope in learning])[0]


def _sizes(student: Tensor, along: Sequence[int]) -> list[int]:
    """How long a chunk is in each direction that is cut."""
    most, rest, sizes = ON_CPU if student.device.type == "cpu" else ELSEWHERE, student.numel(), list[int]()
    for dim in along:
        rest = max(1, rest // max(1, student.shape[dim]))
        sizes.append(max(1, min(most // rest, student.shape[dim])))
    return sizes


def _lengths(values: Tensor, student: Tensor, along: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """How many values there are of a chunk: one, or as many as it is long."""
    return [size if values.shape[dim] == student.shape[dim] else 1 for dim, size in zip(along, sizes, strict=True)]


def _chunks(
    student: Tensor, others: Sequence[Tensor], along: Sequence[int], sizes: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    same = [x.expand([student.shape[d] if d in along else n for d, n in enumerate(x.shape)]) for x in others]
    return list(zip(*(_cut(x, along, sizes) for x in (student, *same)), strict=True))


def _cut(tensor: Tensor, along: Sequence[int], sizes: Sequence[int]) -> list[Tensor]:
    parts = [tensor]
    for dim, size in zip(along, sizes, strict=True):
        parts = [piece for part in parts for piece in part.split(size, dim)]
    return parts


def _joined(parts: list[Tensor], student: Tensor, along: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for dim, size in reversed(list(zip(along, sizes, strict=True))):
        number = max(1, -(-student.shape[dim] // size))
        parts = [torch.cat(parts[i : i + number], dim) for i in range(0, len(parts), number)]
    (whole,) = parts
    return whole
