"""Which stages of a student say what which stages of a teacher say, and what each way to distil has aligned.

Linear CKA: Kornblith et al. 2019, https://arxiv.org/abs/1905.00414; where we differ stands in the machine `alignment`.
A high CKA is no proof that anything was learnt from the teacher: two networks that learnt the same labels are alike
already, and few directions of much variance decide it (Davari et al. 2023, https://arxiv.org/abs/2210.16156). So every
arm is told beside its network on labels alone, and beside how alike its own seeds are.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import final

from segdistill.analyses import Analysis, Subject
from segdistill.analyses._alignments import Change, Compared, Teacher, compare, teacher_of
from segdistill.analyses._arms import Arm, arms_of, pairings
from segdistill.analyses._listening import images
from segdistill.analyses._parted import about_arms
from segdistill.heat_map import heat_map
from segdistill.intervals import chance, holm, interval
from segdistill.mistakes import Mistake
from segdistill.recipe import read
from segdistill.types import Cell, Findings, Picture, Table

WHO = "alignment"
ALIGNED = ("arm", "stage", "teacher_stage", "seeds", "cka", "low", "high", "by_chance", "pixels")
CHANGED = ("arm", "baseline", "seeds", "stage", "teacher_stage", "change", "low", "high", "verdict")
BETWEEN = ("arm", "stage", "pairs", "cka", "least", "most", "pixels")
FEW = 0.1
"""Of a CKA by chance: more, and the pixels are too few for so many channels."""


Changes = Mapping[tuple[str, str], Change]


@final
class Alignment(Analysis):
    """CKA (0 to 1) of every stage of every arm's runs with every stage of one teacher, on the validation split.

    An arm is the runs whose recipes differ in the seed alone; their last weights are asked, and the best ones of the
    teacher, as its students learnt from them. A distilled arm's baseline is the same network on labels alone.

    Tables: `alignment`, means over seeds with their 95 % intervals (cut off at 0 and 1), what shuffled pixels would
    give (`by_chance`) and how many pixels there were; `change` against the baseline, paired by seed; `between_seeds`,
    one stage of two seeds of an arm: how far it repeats itself; `arms`, `teacher`, `advice`. Pictures: `cka/<arm>`;
    `change/<arm>`, on one scale, plus and minus the number `change_scale`.

    Args:
        teacher: a run directory, RUN@step-N, a weights file, or the name of one of the runs; default: the one frozen
            network that the runs learnt from.
        images: validation images, spread evenly; default all.
        baseline: the arm that all others are compared with.
    """

    def __init__(self, teacher: str | None = None, images: int | None = None, baseline: str | None = None) -> None:
        if images is not None and images < 1:
            raise Mistake(f"{WHO}: expected images >= 1, got {images}")
        self.teacher, self.images, self.baseline = teacher, images, baseline

    def analyse(self, subject: Subject) -> Findings:
        """Compare every run with the teacher.

        Raises:
            Mistake: as `teacher_of`, `arms_of` and `pairings` say, nobody is left beside the teacher, or a sample
                cannot be read.
        """
        if not subject.runs:
            raise Mistake(f"{WHO}: expected at least one run directory")
        split = list(subject.splits)[-1]
        recipes = [read(run.recipe_file) for run in subject.runs]
        teacher = teacher_of(subject.runs, recipes, self.teacher, WHO)
        runs = [run for run in subject.runs if run.path.resolve() != teacher.path.resolve()]
        if not runs:
            raise Mistake(f"{WHO}: expected runs beside the teacher, got only {teacher.name}")
        arms = arms_of(runs, subject.splits[split].classes, WHO, fewest=1)
        pairs = pairings(arms, self.baseline, WHO)
        samples = images(subject.splits[split], subject.data, split, self.images, 0)
        found = {arm.name: compare(samples, arm, teacher, subject.folder) for arm in arms}
        changed = {arm.name: _changes(arm, baseline, found) for arm, baseline in pairs}
        tables = {
            "arms": about_arms(arms, pairs),
            "teacher": Table(("teacher", "weights", "model"), [(*_origin(teacher), teacher.weights.model)]),
            "alignment": Table(ALIGNED, [row for arm, one in found.items() for row in _aligned(arm, one)]),
            "change": Table(CHANGED, [row for arm, baseline in pairs
                                      for row in _changed(arm, baseline, changed[arm.name])]),
            "between_seeds": Table(BETWEEN, [row for arm, one in found.items() for row in _between(arm, one)]),
        }  # fmt: skip
        top = max((abs(each.value) for changes in changed.values() for each in changes.values()), default=0.0)
        numbers = {"images": float(samples.length), "change_scale": max(0.01, top)}
        for arm, one in found.items():
            for stage in _shared(one):
                mean = _interval(one, stage, stage)[0]
                numbers |= {} if mean is None else {f"{arm}/{stage}": mean}
        for arm, changes in changed.items():
            numbers |= {f"{arm}/change/{stage}": each.value for (stage, other), each in changes.items()
                        if stage == other}  # fmt: skip
        for arm, stage, _, mean, *_ in tables["between_seeds"].rows:
            numbers |= {f"{arm}/between_seeds/{stage}": mean} if isinstance(mean, float) else {}
        said = [*_advice(pairs, changed, found, teacher), *_reservations(found)]
        tables["advice"] = Table(("about", "finding"), said)
        return Findings(numbers, _pictures(found, changed, teacher, numbers["change_scale"]), tables)


def _origin(teacher: Teacher) -> tuple[str, str]:
    return teacher.name, str(teacher.weights.file)


def _shared(found: Compared) -> list[str]:
    return [stage for stage in found.stages if stage in found.teacher_stages]


def _known(found: Compared, stage: str, other: str) -> list[float]:
    """Of every run; nothing where a run's stage is constant, or the teacher's."""
    values = [value.cka for value in found.with_teacher[stage, other]]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _interval(found: Compared, stage: str, other: str) -> tuple[float | None, float | None]:
    values = _known(found, stage, other)
    return interval(values) if values else (None, None)


def _ends(mean: float | None, half: float | None) -> tuple[float | None, float | None]:
    """Of an interval; none where seeds are too few for one."""
    return (None, None) if mean is None or half is None else (mean - half, mean + half)


def _aligned(arm: str, found: Compared) -> Iterator[list[Cell]]:
    for (stage, other), values in found.with_teacher.items():
        mean, half = _interval(found, stage, other)
        floors = [value.by_chance for value in values if value.by_chance is not None]
        floor = statistics.fmean(floors) if floors else None
        low, high = _ends(mean, half)
        cut = (None if low is None else max(0.0, low), None if high is None else min(1.0, high))
        yield [arm, stage, other, len(values), mean, *cut, floor, values[0].examples]


def _changes(arm: Arm, baseline: Arm, found: Mapping[str, Compared]) -> Changes:
    """Where both have the stage and it says something."""
    seeds = sorted(set(arm.seeds) & set(baseline.seeds))
    changes: dict[tuple[str, str], Change] = {}
    for pair in found[arm.name].with_teacher:
        if pair not in found[baseline.name].with_teacher:
            continue
        own, theirs = (_known(found[each.name], *pair) for each in (arm, baseline))
        if own and theirs:
            apart = [own[arm.seeds.index(seed)] - theirs[baseline.seeds.index(seed)] for seed in seeds]
            changes[pair] = Change(*interval(apart), chance(apart))
    return changes


def _changed(arm: Arm, baseline: Arm, changes: Changes) -> Iterator[list[Cell]]:
    seeds = len(set(arm.seeds) & set(baseline.seeds))
    for (stage, other), each in changes.items():
        low, high = _ends(each.value, each.half)
        yield [arm.name, baseline.name, seeds, stage, other, each.value, low, high, each.verdict]


def _between(arm: str, found: Compared) -> Iterator[list[Cell]]:
    for stage, values in found.between.items():
        known = [value.cka for value in values if value.cka is not None]
        told = (statistics.fmean(known), min(known), max(known)) if known else (None, None, None)
        yield [arm, stage, len(known), *told, values[0].examples]


def _advice(
    pairs: Sequence[tuple[Arm, Arm]], changed: Mapping[str, Changes], found: Mapping[str, Compared], teacher: Teacher
) -> Iterator[tuple[str, str]]:
    """A sentence for every comparison; where there is none, for every arm."""
    if not pairs:
        text = "expected runs of one network with and without distillation that share seeds; or set baseline."
        yield "no comparison", text
        for arm, one in found.items():
            means = {stage: _interval(one, stage, stage)[0] for stage in _shared(one)}
            told = [f"{stage} {mean:.2f}" for stage, mean in means.items() if mean is not None]
            yield arm, f"CKA with {teacher.name} of the same stage: {', '.join(told)}."
    for arm, baseline in pairs:
        changes, seeds = changed[arm.name], len(set(arm.seeds) & set(baseline.seeds))
        paired = f"against {baseline.name}, {seeds} paired seed{'s' * (seeds != 1)}"
        same = {stage: each for (stage, other), each in changes.items() if stage == other}
        if not same:
            yield arm.name, f"{paired}: undecided, no stage of one name says anything."
            continue
        if seeds < 2:
            told = ", ".join(f"{stage} {_signed(each.value)}" for stage, each in same.items())
            yield arm.name, f"{paired}: undecided, CKA of the same stage changes by {told}."
            continue
        sure = holm({stage: each.chance for stage, each in same.items()})
        for verdict, what in (("higher", "more like"), ("lower", "less like")):
            told = [
                f"{stage} {_signed(each.value)} ± {each.half:.3f}{'' if stage in sure else ' (not among so many)'}"
                for stage, each in same.items()
                if each.verdict == verdict
            ]
            if told:
                yield arm.name, f"{paired}: {what} {teacher.name} than its baseline is at {', '.join(told)}."
        if all(each.verdict == "undecided" for each in same.values()):
            largest = max(same, key=lambda stage: abs(same[stage].value))
            each = same[largest]
            said = f"the largest is {largest} {_signed(each.value)} ± {each.half or 0:.3f}"
            yield arm.name, f"{paired}: no stage is decided, {said}."
        beyond = [each.verdict for each in changes.values() if each.verdict != "undecided"]
        expected = f"chance alone would give {0.05 * len(changes):.0f}"
        yield (
            arm.name,
            f"of all {len(changes)} pairs of stages {len(beyond)} changed beyond their interval; {expected}.",
        )


def _reservations(found: Mapping[str, Compared]) -> Iterator[tuple[str, str]]:
    """What to know before believing it."""
    for arm, one in found.items():
        few = {pair: values[0] for pair, values in one.with_teacher.items() if (values[0].by_chance or 0) > FEW}
        if few:
            (stage, other), worst = max(few.items(), key=lambda item: item[1].by_chance or 0)
            floor = f"shuffled pixels alone would give {worst.by_chance:.2f} of {worst.examples:,} pixels"
            said = f"{len(few)} pairs of stages saw few pixels for their channels (at {stage} and {other} {floor})"
            yield arm, f"{said}; look at more images."
        silent = [f"{stage} and {other}" for stage, other in one.with_teacher if not _known(one, stage, other)]
        if silent:
            yield arm, f"no CKA of {silent[0]} ({len(silent)} pairs in all): a stage is constant or not finite."


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _pictures(
    found: Mapping[str, Compared], changed: Mapping[str, Changes], teacher: Teacher, top: float
) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for arm, one in found.items():
        rows, columns, names = one.stages, one.teacher_stages, (arm, teacher.name)
        means = [[_interval(one, row, column)[0] for column in columns] for row in rows]
        pictures[f"cka/{arm}"] = heat_map(means, rows, columns, (0, 1), names)
        if arm in changed:
            cells = [[changed[arm][row, column].value if (row, column) in changed[arm] else None for column in columns]
                     for row in rows]  # fmt: skip
            pictures[f"change/{arm}"] = heat_map(cells, rows, columns, (-top, top), names, is_difference=True)
    return pictures
