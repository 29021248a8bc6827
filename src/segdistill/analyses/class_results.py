"""Which classes distillation saves and which it loses, beside how frequent, how large and how thin they are.

Runs of one network with and without distillation are paired by their seed; a class's gain is the mean of its paired IoU
differences with the 95 % interval of Student's t. Whether gains go with a property of the classes is told by Spearman's
rank correlation over classes.
"""

import math
import statistics
from collections.abc import Sequence
from typing import final

import numpy as np

from segdistill.analyses import Analysis, Subject
from segdistill.analyses._advice import listed, percent, quantile
from segdistill.analyses._experiments import (
    Experiment,
    Result,
    check_same_images,
    comparisons,
    experiments,
    pairs,
    results,
    spearman,
)
from segdistill.analyses._shift import shares
from segdistill.analyses._tally import tally
from segdistill.intervals import interval
from segdistill.mistakes import Mistake
from segdistill.types import Cell, Findings, Table

PROPERTIES = ("share", "images", "side", "boundary")


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
        measured = list(results(subject.runs))
        if not measured:
            raise Mistake("class_results: none of the runs has findings of the probe measure; expected finished runs")
        check_same_images(subject.runs, "class_results")
        found = experiments(measured)
        classes = next(iter(subject.splits.values())).classes
        names = classes.names
        properties = self._properties(names, subject)
        legend = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*classes, strict=True)]
        columns = [experiment.name for experiment in found]
        ious = [[name, *(experiment.mean(name) for experiment in found)] for name in names]
        tables = {"classes": Table(("class", "colour"), legend), "properties": properties}
        tables["ious"] = Table(("class", *columns), ious)
        numbers: dict[str, float] = {"boundary": self.boundary}
        said: list[tuple[str, str]] = []
        for distilled, baseline, teacher in comparisons(found):
            paired = pairs(distilled, baseline)
            gain = _gain(names, paired, teacher)
            tables[f"gain/{distilled.name}"] = gain
            numbers[f"{distilled.name}/seeds"] = float(len(paired))
            known = [value for row in gain.rows if isinstance(value := row[1], float)]
            numbers[f"{distilled.name}/mean_gain"] = statistics.fmean(known) if known else 0.0
            for index, name in enumerate(PROPERTIES, 1):
                told = [(p[index], g[1]) for p, g in zip(properties.rows, gain.rows, strict=True)]
                numbers[f"{distilled.name}/gain_with_{name}"] = spearman(told)
            numbers[f"{distilled.name}/chance"] = 1.96 / math.sqrt(max(2, len(known)) - 1)
            said.append((distilled.name, _sentence(gain, baseline.name, len(paired))))
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


def _gain(names: Sequence[str], paired: Sequence[tuple[Result, Result]], teacher: Experiment | None) -> Table:
    """By class: gain with its interval, IoU with and without distillation and of the teacher, what distillation did."""
    rows: list[list[Cell]] = []
    for name in names:
        known = [(w, b) for one, other in paired if (w := one.ious.get(name)) is not None
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
