"""Which classes distillation saves and which it loses, beside how frequent, how large and how thin they are.

Runs of one network with and without distillation are paired by their seed; a class's gain is the mean of its paired IoU
differences with the 95 % interval of Student's t. Whether gains go with a property of the classes is told by Spearman's
rank correlation over classes.
"""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from segdistill.analyses import Analysis, Subject
from segdistill.analyses._advice import listed, percent, quantile
from segdistill.analyses._shift import shares
from segdistill.analyses._tally import tally
from segdistill.mistakes import Mistake
from segdistill.recipe import LABELS, Recipe, read
from segdistill.run import Run
from segdistill.types import Cell, Findings, Table

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a two-sided 95 % interval by degrees of freedom, from 1; past the last one it is taken for that."""
KEPT_APART = {"seed", "log", "checkpoint", "probes"}
"""Keys of a recipe that may differ between the runs of one experiment."""
PROPERTIES = ("share", "images", "side", "boundary")


class _Result(NamedTuple):
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


class _Experiment(NamedTuple):
    """The seeds of one experiment."""

    results: Sequence[_Result]

    @property
    def name(self) -> str:
        names = [result.run.name for result in self.results]
        common = next(n for n in range(len(names[0]), -1, -1) if all(name[:n] == names[0][:n] for name in names))
        return names[0][:common].rstrip("-_ ") or names[0] if len(names) > 1 else names[0]

    def mean(self, label: str) -> float | None:
        values = [iou for result in self.results if (iou := result.ious.get(label)) is not None]
        return statistics.fmean(values) if values else None


@final
class ClassResults(Analysis):
    """Tables `classes`, `properties`, `ious`, `advice`, and `gain/<experiment>` for each distilled experiment.

    `properties`, of the first split's labels (boundary: of the last one's): share of the labelled pixels, share of the
    images, side of the objects that half of the pixels lie in, share of pixels near a boundary. Numbers:
    `<experiment>/mean_gain` and, for each property, `<experiment>/gain_with_<property>`.

    Args:
        boundary: as in the analysis `dataset`.
    """

    def __init__(self, boundary: float = 0.005) -> None:
        if not 0 < boundary < 0.5:
            raise Mistake(f"boundary: expected 0 < share of the diagonal < 0.5, got {boundary}")
        self.boundary = boundary

    def analyse(self, subject: Subject) -> Findings:
        """Classes' properties beside their results.

        Raises:
            Mistake: no run was measured, or they were not all measured on the same images.
        """
        results = list(_results(subject.runs))
        if not results:
            raise Mistake("class_results: none of the runs has findings of the probe measure; expected finished runs")
        _check_same_images(subject.runs)
        experiments = _experiments(results)
        classes = next(iter(subject.splits.values())).classes
        names = classes.names
        properties = self._properties(names, subject)
        legend = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*classes, strict=True)]
        columns = [experiment.name for experiment in experiments]
        ious = [[name, *(experiment.mean(name) for experiment in experiments)] for name in names]
        tables = {"classes": Table(("class", "colour"), legend), "properties": properties}
        tables["ious"] = Table(("class", *columns), ious)
        numbers: dict[str, float] = {"boundary": self.boundary}
        said: list[tuple[str, str]] = []
        for distilled, baseline, teacher in _comparisons(experiments):
            pairs = _pairs(distilled, baseline)
            gain = _gain(names, pairs, teacher)
            tables[f"gain/{distilled.name}"] = gain
            numbers[f"{distilled.name}/seeds"] = float(len(pairs))
            known = [value for row in gain.rows if isinstance(value := row[1], float)]
            numbers[f"{distilled.name}/mean_gain"] = statistics.fmean(known) if known else 0.0
            for index, name in enumerate(PROPERTIES, 1):
                told = [(p[index], g[1]) for p, g in zip(properties.rows, gain.rows, strict=True)]
                numbers[f"{distilled.name}/gain_with_{name}"] = _spearman(told)
            numbers[f"{distilled.name}/chance"] = 1.96 / math.sqrt(max(2, len(known)) - 1)
            said.append((distilled.name, _sentence(gain, baseline.name, len(pairs))))
        if not said:
            text = "expected runs of one network with and without distillation, of which some have the same seed."
            said.append(("no comparison", text))
        tables["advice"] = Table(("experiment", "finding"), said)
        return Findings(numbers, {}, tables)

    def _properties(self, names: Sequence[str], subject: Subject) -> Table:
        sums = [tally(name, split, self.boundary, subject.folder) for name, split in subject.splits.items()]
        train, last = sums[0], sums[-1]
        share, images = shares(train.pixels), (train.pixels[:, :-1] > 0).mean(0)
        totals = last.pixels[:, :-1].sum(0, dtype=np.int64)
        rows: list[list[Cell]] = [
            [
                name,
                float(share[k]),
                float(images[k]),
                quantile(train.side_pixels[k], 0.5),
                float(last.near[k] / totals[k]) if totals[k] else None,
            ]
            for k, name in enumerate(names)
        ]
        return Table(("class", *PROPERTIES), rows)


def _results(runs: Sequence[Run]) -> Iterator[_Result]:
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
            yield _Result(run, recipe, model, ious)


def _check_same_images(runs: Sequence[Run]) -> None:
    seen: dict[str, str] = {}
    for run in runs:
        if run.info_file.exists():
            seen.setdefault(str(run.info().get("fingerprints", {}).get("val", "")), run.name)
    if len(seen) > 1:
        raise Mistake(f"class_results: {' and '.join(seen.values())} were not validated on the same images")


def _experiments(results: Sequence[_Result]) -> list[_Experiment]:
    groups: dict[str, list[_Result]] = {}
    for result in results:
        groups.setdefault(result.experiment, []).append(result)
    return [_Experiment(members) for members in groups.values()]


def _comparisons(experiments: Sequence[_Experiment]) -> Iterator[tuple[_Experiment, _Experiment, _Experiment | None]]:
    """(distilled, the same network on labels alone, its teacher) wherever some seeds are shared."""
    for distilled in experiments:
        first = distilled.results[0]
        if not first.is_distilled:
            continue
        frozen = {Path(m.weights).name for m in first.recipe.models.values() if m.frozen and m.weights}
        teachers = [e for e in experiments if any(_taught(result, frozen) for result in e.results)]
        for baseline in experiments:
            other = baseline.results[0]
            if not other.is_distilled and other.network == first.network and _pairs(distilled, baseline):
                yield distilled, baseline, teachers[0] if teachers else None
                break


def _taught(result: _Result, frozen: set[str]) -> bool:
    """Whether the network is one of these frozen ones: its own run, or measured beside its student."""
    spec = result.recipe.models[result.model]
    return Path(spec.weights).name in frozen if spec.frozen and spec.weights else result.run.name in frozen


def _pairs(distilled: _Experiment, baseline: _Experiment) -> list[tuple[_Result, _Result]]:
    by_seed = {result.recipe.seed: result for result in baseline.results}
    return [(r, by_seed[r.recipe.seed]) for r in distilled.results if r.recipe.seed in by_seed]


def _gain(names: Sequence[str], pairs: Sequence[tuple[_Result, _Result]], teacher: _Experiment | None) -> Table:
    """By class: gain with its interval, IoU with and without distillation and of the teacher, what distillation did."""
    rows: list[list[Cell]] = []
    for name in names:
        known = [(w, b) for one, other in pairs if (w := one.ious.get(name)) is not None
                 and (b := other.ious.get(name)) is not None]  # fmt: skip
        told = teacher.mean(name) if teacher else None
        if not known:
            rows.append([name, None, None, None, None, None, told, "absent"])
            continue
        value, half = interval([one - other for one, other in known])
        low, high = (None, None) if half is None else (value - half, value + half)
        did = (
            "undecided" if low is None or high is None else "saved" if low > 0 else "lost" if high < 0 else "undecided"
        )
        student, baseline = (statistics.fmean(column) for column in zip(*known, strict=True))
        rows.append([name, value, low, high, student, baseline, told, did])
    return Table(("class", "gain", "low", "high", "student", "baseline", "teacher", "what"), rows)


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval; None for a single difference."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, None
    t = T95[min(len(differences) - 1, len(T95)) - 1]
    return mean, t * statistics.stdev(differences) / math.sqrt(len(differences))


def _sentence(gain: Table, baseline: str, seeds: int) -> str:
    by: dict[str, list[str]] = {}
    for row in gain.rows:
        by.setdefault(str(row[7]), []).append(str(row[0]))
    against = f"against {baseline} over {seeds} paired seed{'s' * (seeds != 1)}"
    if seeds < 2:
        return f"{against}: one seed has no interval, every class is undecided."
    known = sum(len(by.get(what, [])) for what in ("saved", "lost", "undecided"))
    saved, lost = (listed(by.get(what, [])) or "none" for what in ("saved", "lost"))
    return (
        f"{against}: saved: {saved}; lost: {lost}; undecided: {len(by.get('undecided', []))} of {known}."
        f" By chance alone {percent(0.05)} of the classes would be saved or lost.{_left(gain)}"
    )


def _left(gain: Table) -> str:
    """In which classes the teacher is furthest ahead of the student."""
    known = [(float(told) - float(student), str(name)) for name, _, _, _, student, _, told, _ in gain.rows
             if isinstance(told, int | float) and isinstance(student, int | float)]  # fmt: skip
    most = [f"{name} ({100 * ahead:.1f} points)" for ahead, name in sorted(known, reverse=True)[:3] if ahead > 0]
    return f" The teacher is still furthest ahead in {listed(most)}." if most else ""


def _spearman(pairs: Sequence[tuple[Cell, Cell]]) -> float:
    """Spearman's rank correlation of the pairs that are known; ties share their mean rank; 0 where nothing varies."""
    known = [(float(a), float(b)) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float)]
    if len(known) < 3:
        return 0.0
    one, other = (_ranks(column) for column in zip(*known, strict=True))
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
