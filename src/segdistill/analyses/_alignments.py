"""CKA of an arm's runs with a teacher and with each other: one pass over a split, kept so that it can go on."""

import hashlib
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segdistill.alignment import Alignments, End, Pair
from segdistill.analyses._arms import Arm
from segdistill.analyses._listening import Samples
from segdistill.analyses._partial import read_arrays, write_arrays
from segdistill.analyses._voices import lessons, place_of
from segdistill.assemble import built, weights
from segdistill.checkpoint import Weights
from segdistill.data import watched
from segdistill.mistakes import Mistake, one_of
from segdistill.prediction import answer
from segdistill.recipe import Recipe
from segdistill.run import Run

VERSION = 1
"""Of what is summed; what was kept by another version is not used."""
SAVE_SECONDS = 20.0
TEACHER = "teacher"


class Teacher(NamedTuple):
    """Whom everybody is compared with."""

    name: str
    weights: Weights
    path: Path
    """A run directory, or a weights file."""


class Value(NamedTuple):
    """Of one pair of stages."""

    cka: float | None
    by_chance: float | None
    examples: int


class Compared(NamedTuple):
    """An arm's runs, by place, and what they say like the teacher and like each other."""

    stages: Sequence[str]
    teacher_stages: Sequence[str]
    with_teacher: Mapping[tuple[str, str], Sequence[Value]]
    """By the student's and the teacher's stage: of every run."""
    between: Mapping[str, Sequence[Value]]
    """By stage: of every two runs; nothing where there is one."""


class Change(NamedTuple):
    """Of one pair of stages, against the baseline, paired by seed."""

    value: float
    half: float | None
    """Of its 95 % interval."""
    chance: float
    """How often seeds alone bring so much."""

    @property
    def verdict(self) -> str:
        if self.half is None or abs(self.value) <= self.half:
            return "undecided"
        return "higher" if self.value > 0 else "lower"


def teacher_of(runs: Sequence[Run], recipes: Sequence[Recipe], asked: str | None, who: str) -> Teacher:
    """The one that was asked for, else the only frozen network that runs learnt from; its best weights.

    Raises:
        Mistake: there is none, or there are several, or its weights are nowhere.
    """
    if asked is not None:
        by_name = {run.name: run.path for run in runs}
        path = by_name.get(asked, Path(asked)) if not Path(asked).exists() else Path(asked)
        return Teacher(path.name.removesuffix(".safetensors"), weights(path), path)
    by_name = {run.name: run for run in runs}
    found: dict[str, Teacher] = {}
    for run, recipe in zip(runs, recipes, strict=True):
        for model in dict.fromkeys(teacher for _, teacher in lessons(recipe)):
            told = Path(recipe.models[model].weights or "")
            if not told.exists() and told.name in by_name:
                one = Teacher(told.name, weights(by_name[told.name].path), by_name[told.name].path)
            else:
                try:
                    place = place_of(run, recipe, model)
                except Mistake as mistake:
                    raise Mistake(
                        f"{who}: the teacher of {run.name} is not there ({mistake}); set teacher"
                    ) from mistake
                one = Teacher(place.named(place.run.name), place.weights, place.run)
            found.setdefault(one.weights.digest(), one)
    if len(found) != 1:
        several = f"they learnt from {one_of(one.name for one in found.values())}"
        got = several if found else "none of them learnt from a frozen one"
        raise Mistake(f"{who}: expected runs with one teacher, {got}; set teacher to a run directory")
    return next(iter(found.values()))


def compare(samples: Samples, arm: Arm, teacher: Teacher, folder: Path | None) -> Compared:
    """Ask an arm's runs and the teacher, going on from what `folder` holds.

    Raises:
        Mistake: a sample cannot be read; what was summed before it is kept.
        KeyboardInterrupt: the same.
    """
    networks = {str(place): built(one) for place, one in enumerate(arm.weights)}
    students = list(networks)
    networks[TEACHER] = built(teacher.weights)
    stages, theirs = list(networks[students[0]].stages), list(networks[TEACHER].stages)
    pairs: list[Pair] = [(End(student, stage), End(TEACHER, other))
                         for student in students for stage in stages for other in theirs]  # fmt: skip
    two = list(itertools.combinations(students, 2))
    pairs += [(End(one, stage), End(other, stage)) for one, other in two for stage in stages]
    sums = Alignments(pairs, {name: network.stages for name, network in networks.items()})

    file, first = None, 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if folder is not None:
        facts = repr((VERSION, [one.digest() for one in (*arm.weights, teacher.weights)], samples.facts))
        file = folder / f"aligned-{samples.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
        if file.exists():
            arrays = read_arrays(file, ("seen",))
            first = int(arrays.pop("seen"))
            sums.restore(arrays, device)
    seen, left = first, samples.length - first
    for network in networks.values():
        network.to(device)

    def save() -> None:
        if file is not None:
            write_arrays(file, {"seen": np.array(seen), **sums.state()})

    begin = saved = time.monotonic()
    try:
        for sample in watched(islice(samples.starting(first), left), arm.name, left) if left else ():
            sums.update({name: answer(network, sample.image, samples.size) for name, network in networks.items()})
            seen += 1
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        if seen > first:
            save()
    if left:
        start = f" (going on after {first:,})" if first else ""
        told = f"{left:,} images{start}, {len(students)} runs, in {time.monotonic() - begin:.1f} s"
        print(f"{arm.name}: {told}", file=sys.stderr)

    def value(one: End, other: End) -> Value:
        return Value(sums.cka(one, other), sums.by_chance(one, other), sums.examples(one, other))

    with_teacher = {(stage, other): [value(End(student, stage), End(TEACHER, other)) for student in students]
                    for stage in stages for other in theirs}  # fmt: skip
    between = {stage: [value(End(one, stage), End(other, stage)) for one, other in two] for stage in stages}
    return Compared(stages, theirs, with_teacher, between if two else {})
