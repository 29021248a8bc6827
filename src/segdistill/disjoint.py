"""Disjoint parts of a training split: what a network would be had it seen other images (Yang et al. 2020,
https://arxiv.org/abs/2002.11328, who train on disjoint splits to tell variance from bias)."""

from collections.abc import Sequence

import numpy as np

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import PartsSpec


def part_of(train: Dataset, spec: PartsSpec, seed: int) -> Sequence[int]:
    """The images of a seed's part, in their order: of 3 parts, seeds 0 to 2 have one each, and 3 to 5 of other parts.

    Images, or sequences, are dealt out in a random order that is each round's own, always to the smallest part.

    Raises:
        Mistake: there are fewer images, or sequences, than parts.
    """
    turn, part = divmod(seed, spec.of)
    groups: dict[str, list[int]] = {}
    for index in range(len(train)):
        name = train.key(index)
        groups.setdefault(_sequence(name) if spec.by == "sequence" else name, []).append(index)
    if len(groups) < spec.of:
        raise Mistake(f"data.parts: {spec.of} parts of {len(groups)} {spec.by}s; expected at most one part for each")
    parts: list[list[int]] = [[] for _ in range(spec.of)]
    names = sorted(groups)
    for place in np.random.default_rng(turn).permutation(len(names)):
        min(parts, key=len).extend(groups[names[place]])
    return sorted(parts[part])


def _sequence(key: str) -> str:
    """As `hold_out` names them: what stands before the first / or _; a city of Cityscapes."""
    return key.split("/" if "/" in key else "_")[0]
