"""Experiments among finished runs: seeds together, a student beside its baseline, and what a few numbers say."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segdistill.mistakes import Mistake
from segdistill.recipe import LABELS, Recipe, read
from segdistill.run import Run
from segdistill.types import Cell

KEPT_APART = {"seed", "log", "checkpoint", "probes"}
"""Keys of a recipe that may differ between the runs of one experiment."""


class Result(NamedTuple):
    """A trained (or teaching) network of a run, and each class's IoU; None where the class is absent."""

    run: Run
    recipe: Recipe
    model: str
    ious: Mapping[str, float | None]

    @property
    def network(self) -> str:
        spec = self.recipe.models[self.model]
        return json.dumps([spec.kind, spec.parameters], sort_keys=True)

    @property
    def experiment(self) -> str:
        """The same for all seeds of one experiment."""
        content = self.recipe.model_dump(mode="json", exclude=KEPT_APART)
        return json.dumps([self.model, content], sort_keys=True)

    @property
    def is_distilled(self) -> bool:
        edges = [edge for edge in self.recipe.losses.values() if edge.node("student") == self.model]
        return any(edge.target != LABELS for edge in edges)

    @property
    def on_labels(self) -> str:
        """What the labels teach it."""
        said = [
            json.dumps({**edge.model_dump(mode="json", exclude={"student"}), "kind": edge.kind or name}, sort_keys=True)
            for name, edge in self.recipe.losses.items()
            if edge.node("student") == self.model and edge.target == LABELS
        ]
        return json.dumps(sorted(said))

    @property
    def mean_iou(self) -> float:
        """Over the classes that are there."""
        known = [iou for iou in self.ious.values() if iou is not None]
        return statistics.fmean(known) if known else math.nan


class Experiment(NamedTuple):
    """The seeds of one experiment."""

    results: Sequence[Result]

    @property
    def name(self) -> str:
        names = [result.run.name for result in self.results]
        common = next(n for n in range(len(names[0]), -1, -1) if all(name[:n] == names[0][:n] for name in names))
        return names[0][:common].rstrip("-_ ") or names[0] if len(names) > 1 else names[0]

    def mean(self, label: str) -> float | None:
        values = [iou for result in self.results if (iou := result.ious.get(label)) is not None]
        return statistics.fmean(values) if values else None


def results(runs: Sequence[Run]) -> Iterator[Result]:
    """Every network that the runs measured; a frozen teacher once, where its own run is not among them."""
    own = {run.name for run in runs}
    told: set[str] = set()
    for run in runs:
        recipe, found = read(run.recipe_file), run.last_findings("measure")
        for model, table in (found.tables if found else {}).items():
            weights = recipe.models[model].weights
            if model not in recipe.trained():
                if weights is None or Path(weights).name in own | told:
                    continue
                told.add(Path(weights).name)
            iou = list(table.columns).index("iou")
            ious = {str(row[0]): float(v) if isinstance(v := row[iou], int | float) else None for row in table.rows}
            yield Result(run, recipe, model, ious)


def check_same_images(runs: Sequence[Run], who: str) -> None:
    """The mistake of runs that were validated on different images; `who` asks."""
    seen: dict[str, str] = {}
    for run in runs:
        if run.info_file.exists():
            seen.setdefault(str(run.info().get("fingerprints", {}).get("val", "")), run.name)
    if len(seen) > 1:
        raise Mistake(f"{who}: {' and '.join(seen.values())} were not validated on the same images")


def experiments(found: Sequence[Result]) -> list[Experiment]:
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(result.experiment, []).append(result)
    return [Experiment(members) for members in groups.values()]


def comparisons(everybody: Sequence[Experiment]) -> Iterator[tuple[Experiment, Experiment, Experiment | None]]:
    """(distilled, the same network on labels alone, its teacher) wherever some seeds are shared.

    Of several on labels alone the one with the same losses there, else the first.
    """
    for distilled in everybody:
        first = distilled.results[0]
        if not first.is_distilled:
            continue
        frozen = {Path(m.weights).name for m in first.recipe.models.values() if m.frozen and m.weights}
        teachers = [e for e in everybody if any(_taught(result, frozen) for result in e.results)]
        others = [e for e in everybody if _is_baseline(e.results[0], first) and pairs(distilled, e)]
        if others:
            baseline = min(others, key=lambda e: e.results[0].on_labels != first.on_labels)
            yield distilled, baseline, teachers[0] if teachers else None


def _is_baseline(other: Result, student: Result) -> bool:
    """Whether it is the student's network, and learnt from labels alone."""
    return other.model in other.recipe.trained() and not other.is_distilled and other.network == student.network


def _taught(result: Result, frozen: set[str]) -> bool:
    """Whether the network is one of these frozen ones: its own run, or measured beside its student."""
    spec = result.recipe.models[result.model]
    return Path(spec.weights).name in frozen if spec.frozen and spec.weights else result.run.name in frozen


def pairs(distilled: Experiment, baseline: Experiment) -> list[tuple[Result, Result]]:
    """Runs of one seed."""
    by_seed = {result.recipe.seed: result for result in baseline.results}
    return [(r, by_seed[r.recipe.seed]) for r in distilled.results if r.recipe.seed in by_seed]


def spearman(told: Sequence[tuple[Cell, Cell]]) -> float:
    """Spearman's rank correlation of the pairs that are known; ties share their mean rank; 0 where nothing varies."""
    known = [(float(a), float(b)) for a, b in told if isinstance(a, int | float) and isinstance(b, int | float)]
    if len(known) < 3:
        return 0.0
    one, other = (ranks(column) for column in zip(*known, strict=True))
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else 0.0


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """From 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
