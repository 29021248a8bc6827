"""Arms among finished runs: the seeds of one experiment; and which arm is compared with which."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill.analyses._experiments import Experiment, Result, check_same_images, comparisons, experiments
from segdistill.assemble import difference, weights
from segdistill.checkpoint import Weights
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.recipe import Recipe, read
from segdistill.run import Run
from segdistill.types import ClassTable

FEWEST = 2
"""Runs of an arm, where seeds are compared."""


class Arm(NamedTuple):
    """Runs whose recipes differ in the seed alone, in its order."""

    name: str
    experiment: Experiment
    weights: Sequence[Weights]
    """Last ones: the best by validation would be chosen by the images that are looked at."""

    @property
    def seeds(self) -> list[int]:
        return [result.recipe.seed for result in self.experiment.results]


def arms_of(runs: Sequence[Run], classes: ClassTable, who: str, fewest: int = FEWEST) -> list[Arm]:
    """In the order of their first runs; a single run that only teaches others is no arm.

    Args:
        fewest: runs of an arm.

    Raises:
        Mistake: an arm has fewer runs or one seed twice, two cannot be told apart by name, a network is missing or
            knows other classes than the data, or they were not validated on the same images at one size.
    """
    recipes = [read(run.recipe_file) for run in runs]
    teachers = {name for recipe in recipes for name in _taught_by(recipe)}
    results = [Result(run, recipe, model, {})
               for run, recipe in zip(runs, recipes, strict=True) for model in recipe.trained()]  # fmt: skip
    found: list[Experiment] = []
    for experiment in experiments(results):
        members = sorted(experiment.results, key=lambda result: result.recipe.seed)
        if len(members) < FEWEST and members[0].run.name in teachers:
            continue
        if len(members) < fewest:
            alone = f"{fewest} runs of every arm, whose recipes differ in the seed alone"
            raise Mistake(f"{who}: expected at least {alone}, got one of {experiment.name}")
        for one, other in itertools.pairwise(members):
            if one.recipe.seed == other.recipe.seed:
                twice = f"{one.run.name} and {other.run.name} have both {one.recipe.seed}"
                raise Mistake(f"{who}: expected another seed for every run of an arm, {twice}")
        found.append(Experiment(members))
    check_same_images(list({result.run.path: result.run for e in found for result in e.results}.values()), who)
    _check_sizes(found, who)
    names = _names(found, who)
    return [_arm(name, experiment, classes, who) for name, experiment in zip(names, found, strict=True)]


def pairings(arms: Sequence[Arm], baseline: str | None, who: str) -> list[tuple[Arm, Arm]]:
    """(arm, its baseline): every other arm and the one of this name; None: distilled ones and their network on labels.

    Raises:
        Mistake: there is no such arm, or an arm and its baseline share no seed.
    """
    if baseline is None:
        place = {id(arm.experiment): arm for arm in arms}
        found = comparisons([arm.experiment for arm in arms])
        return [(place[id(distilled)], place[id(plain)]) for distilled, plain, _ in found]
    by_name = {arm.name: arm for arm in arms}
    if baseline not in by_name:
        raise Mistake(f"baseline: there is no arm '{baseline}'; there is {one_of(by_name)}{nearest(baseline, by_name)}")
    pairs = [(arm, by_name[baseline]) for arm in arms if arm.name != baseline]
    for arm, other in pairs:
        if not set(arm.seeds) & set(other.seeds):
            raise Mistake(f"{who}: {arm.name} and its baseline {baseline} have no seed in common")
    return pairs


def _taught_by(recipe: Recipe) -> Iterator[str]:
    """The folders that a recipe's frozen weights lie in, the run directory among them."""
    for spec in recipe.models.values():
        if spec.frozen and spec.weights is not None:
            yield from (part.partition("@")[0] for part in Path(spec.weights).parts)


def _check_sizes(found: Sequence[Experiment], who: str) -> None:
    first, *others = (experiment.results[0] for experiment in found)
    for other in others:
        if other.recipe.data.size != first.recipe.data.size:
            told = [f"{one.run.name} {_size(one.recipe.data.size)}" for one in (first, other)]
            raise Mistake(f"{who}: expected runs that see images at one data.size, got {one_of(told)}")


def _size(size: tuple[int, int] | None) -> str:
    return "the images' own" if size is None else f"{size[0]}×{size[1]}"


def _names(found: Sequence[Experiment], who: str) -> list[str]:
    """Of runs that trained several networks with the network's; with the folder's where that is not enough."""
    short = [_named(e.name, e.results[0]) for e in found]
    long = [_named(f"{e.results[0].run.path.parent.name}:{e.name}", e.results[0]) for e in found]
    names = [one if short.count(one) == 1 else other for one, other in zip(short, long, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise Mistake(f"{who}: two arms are called '{name}'; expected runs of different names")
    return names


def _named(name: str, first: Result) -> str:
    return name if first.recipe.trained() == [first.model] else f"{name} · {first.model}"


def _arm(name: str, experiment: Experiment, classes: ClassTable, who: str) -> Arm:
    found = [weights(result.run.path, result.model, "last") for result in experiment.results]
    for result, one in zip(experiment.results, found, strict=True):
        if one.card.classes.names != classes.names:
            said = difference(one.card.classes.names, classes)
            raise Mistake(f"{who}: {result.run.name} knows other classes than the data: {said}")
    return Arm(name, experiment, found)
