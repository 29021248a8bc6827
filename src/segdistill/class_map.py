"""Two class tables brought to one: classes that mean the same form a group, and the groups are compared.

A group's logit is the log of the sum of its members' exponentials, so that its probability is the sum of theirs among
the classes that are in a group at all. Classes in no group leave both distributions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.types import IGNORE, ClassTable

Members = tuple[tuple[int, ...], ...]
"""The classes of each group."""


class Groups(NamedTuple):
    """Classes of a teacher (theirs) and of the data (ours) that mean the same."""

    names: tuple[str, ...]
    theirs: Members
    ours: Members
    left_out: tuple[str, ...]
    """Classes in no group, of either table."""

    def lookup(self) -> Tensor:
        """Our train id -> group, IGNORE where it is in none; int64 [256]."""
        table = torch.full((256,), IGNORE)
        for group, members in enumerate(self.ours):
            table[list(members)] = group
        return table

    def of_ours(self, labels: Int64[Tensor, "b H W"]) -> Int64[Tensor, "b H W"]:
        """Labels in the groups' terms."""
        return self.lookup().to(labels.device)[labels]


def groups(said: Mapping[str, Sequence[str]], theirs: ClassTable, ours: ClassTable, where: str) -> Groups:
    """The groups that a map «their class: our classes» makes: what a common name connects, directly or not.

    Raises:
        Mistake: a name that is in neither table.
    """
    joined: list[tuple[set[str], set[str]]] = []
    for name, values in said.items():
        _known(name, theirs, f"{where}.{name}: the weights have no class '{name}'")
        for value in values:
            _known(value, ours, f"{where}.{name}: the data have no class '{value}'")
        touching = [group for group in joined if group[1] & set(values)]
        merged = ({name}.union(*(group[0] for group in touching)), set(values).union(*(g[1] for g in touching)))
        joined = [group for group in joined if group not in touching] + [merged]
    if len(joined) < 2:
        raise Mistake(f"{where}: expected at least two groups of classes, got {len(joined)}")
    joined.sort(key=lambda group: min(ours.names.index(name) for name in group[1]))
    used = {name for group in joined for name in group[0]}, {name for group in joined for name in group[1]}
    left_out = [f"their {name}" for name in theirs.names if name not in used[0]]
    left_out += [f"our {name}" for name in ours.names if name not in used[1]]
    return Groups(
        tuple(" + ".join(sorted(group[1], key=ours.names.index)) for group in joined),
        tuple(tuple(i for i, name in enumerate(theirs.names) if name in group[0]) for group in joined),
        tuple(tuple(i for i, name in enumerate(ours.names) if name in group[1]) for group in joined),
        tuple(left_out),
    )


def _known(name: str, table: ClassTable, sentence: str) -> None:
    if name not in table.names:
        raise Mistake(f"{sentence}; there is {one_of(table.names)}{nearest(name, table.names)}")


@final
class Translation(nn.Module):
    """Logits of both ends, and the labels, in the groups' terms."""

    lookup: Tensor

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("lookup", groups.lookup(), persistent=False)

    def forward(
        self, student: Float[Tensor, "b k h w"], target: Float[Tensor, "b t h w"], labels: Int64[Tensor, "b H W"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return merge(student, self.groups.ours), merge(target, self.groups.theirs), self.lookup[labels]


def merge(logits: Float[Tensor, "b k h w"], groups: Members) -> Float[Tensor, "b g h w"]:
    """The logits of groups: the log of the sum of their members' exponentials."""
    single = [
        logits[:, members[0]] if len(members) == 1 else logits[:, list(members)].logsumexp(1) for members in groups
    ]
    return torch.stack(single, 1)
