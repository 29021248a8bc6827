"""Measures of teachers beside the gain of their students: tables, and what chance makes of the best correlation."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segdistill.analyses._dark import Fidelity
from segdistill.analyses._experiments import Experiment, comparisons, experiments, pairs, ranks, results
from segdistill.analyses._listening import Pupil
from segdistill.analyses._voices import Lesson, Places, lessons, loss_temperature, place_of
from segdistill.intervals import interval
from segdistill.run import Run
from segdistill.types import Cell, Table

COMPARED = ("mean_iou", "entropy", "wrong_entropy", "dark", "wrong_mass", "nll", "ece", "variation", "row_entropy",
            "mutual_information")  # fmt: skip
"""Measures of a teacher that the gains of its students are compared with."""
FIDELITY = ("kl", "agreement", "gap")
EXACT = 7
"""Voices up to which every permutation is tried."""
FEWEST = 3
"""Voices below which nothing is compared."""
POOLED = "all"
"""What all temperatures of distillation together are called."""


class Taught(NamedTuple):
    """A distilled experiment that learnt from one voice and has a baseline."""

    experiment: Experiment
    voice: str
    temperature: float | None
    """Of the loss between them."""
    gains: Sequence[float]
    """In mIoU over the baseline, by seed."""
    baseline: float
    """Its mIoU, mean over the paired seeds."""


class Best(NamedTuple):
    """Of all measures the one whose correlation with the gain is strongest."""

    measure: str
    correlation: float
    chance: float
    """The strongest of as many that at most 5 % of the permutations exceed."""
    voices: int
    measures: int


def taught(runs: Sequence[Run], places: Places) -> Iterator[Taught]:
    """Every such experiment; who learns from several teachers at once tells nothing of one."""
    for distilled, baseline, _ in comparisons(experiments(list(results(runs)))):
        first = distilled.results[0]
        teachers = [teacher for model, teacher in lessons(first.recipe) if model == first.model]
        if len(teachers) != 1:
            continue
        voice = places[place_of(first.run, first.recipe, teachers[0]).key]
        paired = pairs(distilled, baseline)
        gains = [one.mean_iou - other.mean_iou for one, other in paired]
        mean = statistics.fmean(other.mean_iou for _, other in paired)
        yield Taught(distilled, voice.name, loss_temperature(first, teachers[0]), gains, mean)


def fidelity(pupils: Mapping[Lesson, Pupil], following: Mapping[Lesson, Fidelity]) -> Table:
    """Each student beside its voice on validation images; gap: the voice's entropy less the student's."""
    rows: list[list[Cell]] = []
    for lesson, pupil in pupils.items():
        measures = following[lesson].measures()
        rows.append([pupil.name, pupil.voice.name, *(measures[key] for key in FIDELITY)])
    return Table(("student", "voice", *FIDELITY), rows)


def students(found: Sequence[Taught], following: Mapping[Lesson, Fidelity]) -> Table:
    """Experiments with their gain and its 95 % interval; fidelity: means over their runs."""
    rows: list[list[Cell]] = []
    for experiment, voice, temperature, gains, baseline in found:
        gain, half = interval(gains)
        ends = (None, None) if half is None else (gain - half, gain + half)
        faithful = [following[str(r.run.path), r.model, voice].measures() for r in experiment.results]
        means = [statistics.fmean(one[key] for one in faithful) for key in FIDELITY]
        rows.append([experiment.name, voice, temperature, len(gains), baseline + gain, baseline, gain, *ends, *means])
    columns = ("experiment", "voice", "temperature", "seeds", "mean_iou", "baseline", "gain", "low", "high", *FIDELITY)
    return Table(columns, rows)


def correlation(
    found: Sequence[Taught],
    measures: Mapping[str, Mapping[str, Mapping[str, float]]],
    permutations: int,
    seed: int,
) -> tuple[Table, dict[str, Best]]:
    """Each measure (split -> voice -> name -> value) against the students' gain, by temperature of distillation."""
    rows: list[list[Cell]] = []
    best: dict[str, Best] = {}
    names = [(split, name) for split in measures for name in COMPARED]
    for temperature, gains in by_temperature(found).items():
        if len(gains) < FEWEST:
            continue
        values = np.array([[measures[split][voice][name] for voice in gains] for split, name in names])
        random = np.random.default_rng(seed)
        rho, chance, share, most = permuted(values, np.array(list(gains.values())), permutations, random)
        for place, (split, name) in enumerate(names):
            rows.append([temperature, split, name, len(gains), *(float(x[place]) for x in (rho, chance, share))])
        place = int(np.abs(rho).argmax())
        best[temperature] = Best(": ".join(names[place]), float(rho[place]), most, len(gains), len(names))
    columns = ("temperature", "split", "measure", "voices", "rank_correlation", "chance", "share_of_permutations")
    return Table(columns, rows), best


def by_temperature(found: Sequence[Taught]) -> dict[str, dict[str, float]]:
    """Temperature of distillation -> voice -> mean gain of its students.

    POOLED: gains less the mean over voices at their temperature, then averaged by voice.
    """
    told: dict[str, dict[str, list[float]]] = {}
    for one in found:
        key = "none" if one.temperature is None else f"{one.temperature:g}"
        told.setdefault(key, {}).setdefault(one.voice, []).append(statistics.fmean(one.gains))
    gains = {key: _means(by_voice) for key, by_voice in sorted(told.items())}
    pooled: dict[str, list[float]] = {}
    for by_voice in gains.values():
        middle = statistics.fmean(by_voice.values())
        for voice, gain in by_voice.items():
            pooled.setdefault(voice, []).append(gain - middle)
    return gains | {POOLED: _means(pooled)}


def _means(lists: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.fmean(values) for name, values in lists.items()}


def permuted(
    values: np.ndarray, gains: np.ndarray, permutations: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Spearman's rho of rows of `values` [M, V] with gains [V], and what chance makes of it.

    Every permutation of the gains is tried where there are few voices.

    Returns:
        rho [M]; the |rho| [M] that at most 5 % of the permutations exceed; the share [M] of permutations whose |rho| is
        no smaller than the one found; and the largest |rho| of all rows that at most 5 % of the permutations exceed.
    """
    rows, column = np.stack([_standard(ranks(row)) for row in values]), _standard(ranks(gains))
    count = len(gains)
    if count <= EXACT:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        orders = np.stack([random.permutation(count) for _ in range(permutations)])
    rho = rows @ column
    chance = np.abs(rows @ column[orders].T)
    share = (chance >= np.abs(rho)[:, None] - 1e-9).mean(1)
    limit = math.ceil(0.95 * len(orders)) - 1
    return rho, np.sort(chance, 1)[:, limit], share, float(np.sort(chance.max(0))[limit])


def _standard(values: np.ndarray) -> np.ndarray:
    """With mean 0 and length 1; zeros where nothing varies."""
    centred = values - values.mean()
    length = float(np.sqrt(centred @ centred))
    return centred / length if length > 0 else centred
