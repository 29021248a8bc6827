"""What each edge of a system pulls on: its value and the norm of its gradient, and the edges that pull on nothing."""

from collections.abc import Collection
from typing import NamedTuple

import torch

from segdistill.mistakes import Mistake
from segdistill.recipe import LABELS
from segdistill.system import Frozen, System
from segdistill.types import IGNORE, Batch


class Pull(NamedTuple):
    """An edge in one step."""

    value: float
    """The loss, unweighted."""
    weight: float
    norm: float
    """Of the weighted gradient over everything that learns."""


def pulls(system: System, frozen: Frozen, batch: Batch, step: int = 0) -> dict[str, Pull]:
    """Every edge that acts in a step, alone; weights and statistics stay as they are."""
    buffers = [buffer.clone() for buffer in system.buffers()]
    result = system(batch, frozen(batch.image, system.listened_to(step)), step)
    learning = [p for p in system.parameters() if p.requires_grad]
    found: dict[str, Pull] = {}
    for number, (name, value) in enumerate(result.losses.items(), 1):
        weight = system.edge(name).weight_at(step)
        more = number < len(result.losses)
        gradients = torch.autograd.grad(weight * value, learning, retain_graph=more, materialize_grads=True)
        norm = torch.stack([g.float().norm() for g in gradients]).norm()
        found[name] = Pull(float(value.detach()), weight, float(norm))
    for buffer, before in zip(system.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return found


def require_pull(system: System, frozen: Frozen, batch: Batch, step: int, edges: Collection[str]) -> set[str]:
    """Those of the edges that move something with this batch.

    Two silences are right: a batch without a pixel that counts, which proves nothing either way, and a moving average
    that still equals its student.

    Raises:
        Mistake: an edge's gradient is exactly zero.
    """
    proven: set[str] = set()
    for name, pull in pulls(system, frozen, batch, step).items():
        edge = system.edge(name)
        counts = edge.mask(batch)
        if edge.target.node == LABELS:
            counts = counts & (batch.labels != IGNORE)
        if pull.norm != 0 or pull.weight == 0 or edge.target.node in frozen.following:
            proven.add(name)
        elif name in edges and bool(counts.any()):
            raise Mistake(
                f"losses.{name}: its gradient is exactly zero in its first step, {edge.student} <- {edge.target} "
                f"teaches nothing"
            )
    return proven & set(edges)
