"""What each edge of a system pulls on: its value and the norm of its gradient, and the edges that pull on nothing."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.recipe import LABELS
from segdistill.system import Frozen, System
from segdistill.types import IGNORE, Batch

PATIENCE = 200
"""Steps that a loss whose memory fills first may be silent."""


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


def pulls(system: System, frozen: Frozen, batch: Batch, step: int | None = 0) -> dict[str, Pull]:
    """Every edge that acts in a step, alone; weights, statistics, memories and random states stay as they are.

    Args:
        step: None for all edges, with their whole weights, whatever their phases.
    """
    learned = {name for name, _ in system.named_parameters()}
    state = {name: value.clone() for name, value in system.state_dict().items() if name not in learned}
    with torch.random.fork_rng():
        result = system(batch, frozen(batch, system.listened_to(step)), step)
    learning = [p for p in system.parameters() if p.requires_grad]
    of_labels = [name for name in result.losses if system.edge(name).target.node == LABELS]
    order = [*of_labels, *(name for name in result.losses if name not in of_labels)]
    tasks: dict[str, Tensor] = {}
    found: dict[str, Pull] = {}
    for number, name in enumerate(order, 1):
        edge, value = system.edge(name), result.losses[name]
        weight, more = edge.weight_at(step), number < len(order)
        gradient = torch.autograd.grad(weight * value, learning, retain_graph=more, materialize_grads=True)
        norm = float(torch.stack([g.float().norm() for g in gradient]).norm())
        mine = _over(system.models[edge.student.node], learning, gradient)
        task = tasks.get(edge.student.node)
        if name in of_labels:
            tasks[edge.student.node] = mine if task is None else task + mine
            task = None
        cosine = None if task is None else float(F.cosine_similarity(mine, task, dim=0))
        found[name] = Pull(float(value.detach()), weight, norm, cosine, None if task is None else float(task.norm()))
    system.load_state_dict(state, strict=False)
    return {name: found[name] for name in result.losses}


def _over(model: nn.Module, learning: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """The gradient over a model's own weights, as one vector."""
    own = {id(p) for p in model.parameters()}
    return torch.cat([g.float().flatten() for p, g in zip(learning, gradient, strict=True) if id(p) in own])


class Proof(NamedTuple):
    """Of the edges that one process looked at: those that move something, and why another does not."""

    proven: set[str]
    silent: dict[str, str]


def prove(system: System, frozen: Frozen, batch: Batch, step: int, edges: Collection[str]) -> Proof:
    """Which of the edges move something with this batch, and which wrongly do not.

    Four silences are right: a batch without a pixel that counts and a loss whose memory fills first (for as many as
    PATIENCE steps), which prove nothing either way; a moving average that still equals its student, and a loss that has
    nothing to mend yet.
    """
    proof = Proof(set(), {})
    for name, pull in pulls(system, frozen, batch, step).items():
        edge = system.edge(name)
        counts = edge.mask(batch)
        if edge.target.node == LABELS:
            counts = counts & (batch.labels != IGNORE)
        patient = edge.loss.silent_at_first and step - system.first_steps[name] < PATIENCE
        if name not in edges:
            continue
        rests = edge.loss.may_rest and pull.value == 0
        if pull.norm != 0 or pull.weight == 0 or edge.target.node in frozen.following or rests:
            proof.proven.add(name)
        elif bool(counts.any()) and not patient:
            when = f"after {PATIENCE} steps" if edge.loss.silent_at_first else "in its first step"
            proof.silent[name] = (
                f"losses.{name}: its gradient is exactly zero {when}, {edge.student} <- {edge.target} teaches nothing"
            )
    return proof
