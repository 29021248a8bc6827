"""The graph at work: `System` holds what learns (models and edges), `Frozen` what teaches and never learns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.class_map import Translation
from segdistill.data import as_float
from segdistill.losses import Loss, at_least_float32, on_grid
from segdistill.recipe import LABELS
from segdistill.types import IGNORE, Batch, Step

Stages = Mapping[str, Tensor]
"""What one model says: stage name -> tensor."""


class Tap(NamedTuple):
    """One or several stages of a node; the labels have none."""

    node: str
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        if len(self.stages) == 1:
            return f"{self.node}.{self.stages[0]}"
        return f"{self.node}.[{', '.join(self.stages)}]" if self.stages else self.node


class Phase(NamedTuple):
    """Edges that act together for so many steps; the phases of a ring follow each other again and again."""

    steps: int
    edges: frozenset[str]


class Ending(NamedTuple):
    """Edges that act together from a step on, when the ring is over."""

    begin: int
    edges: frozenset[str]


@final
class Edge(nn.Module):
    """student ← target: brings both ends to one shape, makes the mask, detaches the target, weighs the loss."""

    def __init__(
        self,
        loss: Loss,
        student: Tap,
        target: Tap,
        *,
        weight: float = 1.0,
        ramp: int = 0,
        distill_on: str = "real",
        distill_stride: int = 1,
        adapter: nn.Module | None = None,
        translation: Translation | None = None,
    ) -> None:
        super().__init__()
        self.loss, self.student, self.target = loss, student, target
        self.weight, self.ramp, self.distill_on, self.distill_stride = weight, ramp, distill_on, distill_stride
        self.adapter = adapter or nn.Identity()
        self.translation = translation

    def weight_at(self, step: int | None) -> float:
        return self.weight * min(1.0, (step + 1) / self.ramp) if self.ramp and step is not None else self.weight

    def forward(self, said: Mapping[str, Stages], batch: Batch) -> Tensor:
        """The loss, unweighted, of what every node said."""
        students = [at_least_float32(said[self.student.node][stage]) for stage in self.student.stages]
        targets = [at_least_float32(said[self.target.node][s]).detach() for s in self.target.stages]
        labels, mask = batch.labels, self.mask(batch)
        with torch.autocast(students[0].device.type, enabled=False):
            if self.loss.several:
                return self.loss(students, targets, labels, mask)
            student, target = self.adapter(students[0]), targets[0] if targets else labels
            if self.target.node != LABELS and self.student.stages == ("logits",):
                target = _resize(target, student.shape[-2:])
            else:
                student = _resize(student, target.shape[-2:])
            if self.translation is not None:
                student, target, labels = self.translation(student, target, labels)
            if self.distill_stride > 1:
                student, target = (_pool(x, mask, self.distill_stride) for x in (student, target))
            return self.loss(student, target, labels, mask)

    def mask(self, batch: Batch) -> Tensor:
        """The pixels that count, [b, H, W]."""
        if self.distill_on == "labelled":
            return batch.labels != IGNORE
        return torch.ones_like(batch.pad) if self.distill_on == "all" else ~batch.pad


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == torch.Size(size) else F.interpolate(x, tuple(size), mode="bilinear")


def _pool(logits: Tensor, mask: Tensor, stride: int) -> Tensor:
    """The mean logits of each stride × stride cell, over the pixels that count: the others have no influence."""
    counts = on_grid(mask, *logits.shape[-2:])[:, None].to(logits.dtype)
    pooled = F.avg_pool2d(logits * counts, stride, ceil_mode=True)
    return pooled / F.avg_pool2d(counts, stride, ceil_mode=True).clamp(min=1 / stride**2)


class Memory(NamedTuple):
    """What a forward pass of a system moves."""

    buffers: list[Tensor]
    extra: list[tuple[nn.Module, Any]]
    """Modules with a state that is no buffer, such as a random generator's."""
    random: Tensor
    """The state of torch's generator."""


@final
class System(nn.Module):
    """Trainable models and edges: what is wrapped for several processes, optimised and checkpointed."""

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        edges: Mapping[str, Edge],
        phases: Sequence[Phase],
        ending: Ending | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        self.edges = nn.ModuleDict(edges)
        self.phases = tuple(phases)
        self.ending = ending
        self.first_steps: dict[str, int] = {}
        """The step in which each edge acts for the first time."""
        begin, begun = 0, list[Ending]()
        for phase in self.phases or (Phase(1, frozenset(edges)),):
            begun.append(Ending(begin, phase.edges))
            begin += phase.steps
        if ending is not None:
            begun = [*(each for each in begun if each.begin < ending.begin), ending]
        for first in begun:
            self.first_steps |= {name: first.begin for name in edges if name in first.edges - set(self.first_steps)}

    def acting(self, step: int | None) -> list[str]:
        """The edges that act in this step: a pure function of the step. None: whatever the step, all of them."""
        if step is None:
            return list(self.edges)
        place = self.phase(step)
        if self.ending is not None and place == len(self.phases):
            return [name for name in self.edges if name in self.ending.edges]
        return [name for name in self.edges if not self.phases or name in self.phases[place].edges]

    def phase(self, step: int) -> int:
        """The place of a step's phase in the ring; the last one comes after it; 0 where there are no phases."""
        if self.ending is not None and step >= self.ending.begin:
            return len(self.phases)
        offset = step % sum(phase.steps for phase in self.phases) if self.phases else 0
        for place, phase in enumerate(self.phases):
            if offset < phase.steps:
                return place
            offset -= phase.steps
        return 0

    def edge(self, name: str) -> Edge:
        edge = self.edges[name]
        assert isinstance(edge, Edge)
        return edge

    def learned_by(self, node: str) -> list[nn.Parameter]:
        """A network's weights, and what its edges have of their own."""
        edges = (edge for name, edge in self.edges.items() if self.edge(name).student.node == node)
        return [p for module in (self.models[node], *edges) for p in module.parameters()]

    def listened_to(self, step: int | None) -> set[str]:
        """The nodes that somebody learns from in this step; None: in any."""
        return {self.edge(name).target.node for name in self.acting(step)} - {LABELS}

    def heard(self, said: Mapping[str, Stages], step: int) -> dict[str, Stages]:
        """Of what teachers say, the stages that somebody learns from in this step; the others need not be kept."""
        targets = [self.edge(name).target for name in self.acting(step)]
        stages = {(target.node, stage) for target in targets for stage in target.stages}
        return {node: {k: v for k, v in found.items() if (node, k) in stages} for node, found in said.items()}

    def moved_by_looking(self) -> Memory:
        """A copy of what a forward pass moves though nothing is learned: statistics, memories, random numbers."""
        own = [module for module in self.modules() if type(module).get_extra_state is not nn.Module.get_extra_state]
        extra = [(module, module.get_extra_state()) for module in own]
        return Memory([buffer.clone() for buffer in self.buffers()], extra, torch.get_rng_state())

    def move_back(self, memory: Memory) -> None:
        """Undo what forward passes have moved since."""
        for buffer, before in zip(self.buffers(), memory.buffers, strict=True):
            buffer.copy_(before)
        for module, state in memory.extra:
            module.set_extra_state(state)
        torch.set_rng_state(memory.random)

    def forward(self, batch: Batch, references: Mapping[str, Stages], step: int | None) -> Step:
        """One look at a batch; a model that only teaches in this step is not moved by it, BatchNorm included.

        Without a step every edge acts, with its whole weight.
        """
        acting = self.acting(step)
        learners = {self.edge(name).student.node for name in acting}
        said = dict(references)
        image = as_float(batch.image)
        for name, model in self.models.items():
            if name in learners:
                said[name] = model.train(self.training)(image)
            elif name in self.listened_to(step):
                with torch.no_grad():
                    said[name] = model.eval()(image)
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=image.device)
        for name in acting:
            edge = self.edge(name)
            losses[name] = edge(said, batch)
            total = total + edge.weight_at(step) * losses[name]
        return Step(total, losses)


class Following(NamedTuple):
    """A model that is the moving average of another's weights."""

    model: str
    decay: float


@final
class Frozen:
    """Teachers and moving averages: no Module, so no optimiser, state_dict, train() or DDP can reach them.

    Args:
        remembered: what answers in the place of a teacher: the stages that somebody learns from, of a batch's crops.
        temperatures: of teachers, what their logits are divided by, remembered ones too.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        following: Mapping[str, Following],
        remembered: Mapping[str, Callable[[Batch], Stages]] | None = None,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self.models = dict(models)
        self.following = dict(following)
        self.remembered = dict(remembered or {})
        self.temperatures = dict(temperatures or {})
        for model in self.models.values():
            model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch, wanted: Collection[str]) -> dict[str, Stages]:
        """What each wanted model says of a batch's images; {} when nobody teaches."""
        speaking = [name for name in self.models if name in wanted]
        looking = [name for name in speaking if name not in self.remembered]
        seen = as_float(batch.image) if looking else batch.image
        said = {name: self.models[name](seen) if name in looking else self.remembered[name](batch) for name in speaking}
        return {name: self._divided(name, stages) for name, stages in said.items()}

    def _divided(self, name: str, stages: Stages) -> Stages:
        if name not in self.temperatures or "logits" not in stages:
            return stages
        return {**stages, "logits": at_least_float32(stages["logits"]) / self.temperatures[name]}

    @torch.no_grad()
    def follow(self, models: Mapping[str, nn.Module], step: int) -> None:
        """average ← d·average + (1 − d)·followed, d = min(decay, (1 + step) / (10 + step)); counters are copied."""
        for name, following in self.following.items():
            decay = min(following.decay, (1 + step) / (10 + step))
            theirs = models[following.model].state_dict()
            moved: set[int] = set()  # a network may hold one tensor under two names
            for key, mine in self.models[name].state_dict().items():
                if mine.data_ptr() in moved and mine.numel():
                    continue
                moved.add(mine.data_ptr())
                if mine.is_floating_point():
                    mine.lerp_(theirs[key].to(mine.dtype), 1 - decay)
                else:
                    mine.copy_(theirs[key])

    def to(self, device: torch.device) -> "Frozen":
        for model in self.models.values():
            model.to(device)
        return self
