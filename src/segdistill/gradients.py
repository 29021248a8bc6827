"""What each edge of a system pulls on: its value and the norm of its gradient, and the edges that pull on nothing."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    cosine: float | None
    """Of its gradient with that of the student's labels, over the student's weights; None without labels."""
    task: float | None
    """Norm of the gradient of the student's labels, over the student's weights."""


def pulls(system: System, frozen: Frozen, batch: Batch, step: int = 0) -> dict[str, Pull]:
    """Every edge that acts in a step, alone; weights, statistics, memories and random states stay as they are."""
    learned = {name for name, _ in system.named_parameters()}
    state = {name: value.clone() for name, value in system.state_dict().items() if name not in learned}
    with torch.random.fork_rng():
        result = system(batch, frozen(batch.image, system.listened_to(step)), step)
    learning = [p for p in system.parameters() if p.requires_grad]
    gradients: dict[str, tuple[Tensor, ...]] = {}
    for number, (name, value) in enumerate(result.losses.items(), 1):
        weight, more = system.edge(name).weight_at(step), number < len(result.losses)
        gradients[name] = torch.autograd.grad(weight * value, learning, retain_graph=more, materialize_grads=True)
    found: dict[str, Pull] = {}
    for name, gradient in gradients.items():
        edge = system.edge(name)
        cosine, task = _beside_the_task(system, name, gradients, learning)
        norm = float(torch.stack([g.float().norm() for g in gradient]).norm())
        found[name] = Pull(float(result.losses[name].detach()), edge.weight_at(step), norm, cosine, task)
    system.load_state_dict(state, strict=False)
    return found


def _beside_the_task(
    system: System, name: str, gradients: Mapping[str, Sequence[Tensor]], learning: Sequence[Tensor]
) -> tuple[float | None, float | None]:
    """How an edge's gradient lies to that of the labels of the same student; (cosine, norm of the labels' gradient)."""
    node = system.edge(name).student.node
    others = [e for e in gradients if system.edge(e).student.node == node and system.edge(e).target.node == LABELS]
    if name in others or not others:
        return None, None
    own = {id(p) for p in system.models[node].parameters()}
    places = [i for i, p in enumerate(learning) if id(p) in own]
    mine = torch.cat([gradients[name][i].float().flatten() for i in places])
    task = torch.stack([torch.cat([gradients[e][i].float().flatten() for i in places]) for e in others]).sum(0)
    return float(F.cosine_similarity(mine, task, dim=0)), float(task.norm())


def require_pull(system: System, frozen: Frozen, batch: Batch, step: int, edges: Collection[str]) -> set[str]:
    """Those of the edges that move something with this batch.

    Three silences are right: a batch without a pixel that counts and a loss whose memory fills first, which prove
    nothing either way, and a moving average that still equals its student.

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
        elif name in edges and bool(counts.any()) and not edge.loss.silent_at_first:
            raise Mistake(
                f"losses.{name}: its gradient is exactly zero in its first step, {edge.student} <- {edge.target} "
                f"teaches nothing"
            )
    return proven & set(edges)
