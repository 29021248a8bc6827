"""What the numbers say, in a sentence or two; honest when there is no gain."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from segdistill.reporting.cast import Contender, Group, Role, architecture, teaches

SPACE = "\N{NO-BREAK SPACE}"
NOTICEABLE = 0.05
"""Points; less is rounded away."""


class Comparison(NamedTuple):
    """The experiments that the verdict speaks of, as far as they are there."""

    teacher: Group | None
    baseline: Group | None
    distilled: Group | None


class Verdict(NamedTuple):
    sentence: str
    reservation: str
    """What a careful reader would add; may be empty."""


def compare(groups: Sequence[Group]) -> Comparison:
    """The best distilled student, the strongest run of its network on labels alone, and its best teacher."""
    distilled = _best(groups, "distilled")
    if distilled is None:
        return Comparison(_best(groups, "teacher"), None, None)
    network, recipe = architecture(distilled.first), distilled.first.reading.recipe
    teachers = [
        g
        for g in groups
        if g.role == "teacher" and (g.first.reading.recipe is recipe or teaches(g.first.reading, recipe))
    ]
    same = [g for g in groups if g.role == "baseline" and architecture(g.first) == network]
    return Comparison(_best(teachers or groups, "teacher"), _best(same, "baseline"), distilled)


def judge(groups: Sequence[Group], found: Comparison) -> Verdict:
    """The sentence at the top of the page."""
    measured = [group for group in groups if group.mean("mean_iou") is not None]
    if not measured:
        return Verdict("Nothing has been measured yet.", "The probe `measure` has not run in any of these runs.")
    if found.distilled is None:
        return Verdict(_plain(measured), "")
    best_of = sum(group.role == "distilled" for group in measured)
    reservation = _seeds(found)
    if best_of > 1:
        reservation = f"The best of {best_of} distilled experiments is shown here, which flatters it. {reservation}"
    if found.baseline is not None:
        return Verdict(_against_baseline(found.distilled, found.baseline, found.teacher), reservation)
    sentence = f"The distilled student reaches {percent(_miou(found.distilled))} mIoU"
    if found.teacher is not None:
        sentence += f", {_distance(_points(found.distilled, found.teacher))} its teacher{_cost(found)}"
    missing = "What distillation added is unknown: that needs a run of the same network on labels alone."
    return Verdict(f"{sentence}.", f"{missing} {reservation}")


def percent(share: float) -> str:
    """`41.2 %`, with a space that does not break."""
    return f"{100 * share:.1f}{SPACE}%"


def signed(points: float) -> str:
    """`+3.1`, `−0.4`, `0.0`."""
    text = f"{points:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def count(number: float) -> str:
    """`31.0 M`, `1.9 M`, `640 k`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{SPACE}{letter}"
    return f"{number:.0f}"


def _against_baseline(distilled: Group, baseline: Group, teacher: Group | None) -> str:
    gain = _points(distilled, baseline)
    reached = percent(_miou(distilled))
    cost = _cost(Comparison(teacher, baseline, distilled))
    without = "the same network without distillation"
    if abs(gain) < NOTICEABLE:
        return f"Distillation changed nothing: the student reaches {reached} mIoU with it and without it{cost}."
    if gain < 0:
        below = f"{abs(gain):.1f} points less than {without}"
        return f"Distillation did not help: the distilled student reaches {reached} mIoU, {below}{cost}."
    sentence = f"The distilled student reaches {reached} mIoU: {signed(gain)} points over {without}"
    if teacher is None:
        return f"{sentence}."
    gap = _points(teacher, baseline)
    if gap < NOTICEABLE:
        return f"{sentence}, which was already as good as the teacher ({percent(_miou(teacher))}){cost}."
    recovered = f"{100 * gain / gap:.0f}{SPACE}%"
    return f"{sentence}, {recovered} of the gap to the teacher{cost}."


def _cost(found: Comparison) -> str:
    """`, at 1/30 of the teacher’s GMACs`, where both were counted and differ."""
    if found.teacher is None or found.distilled is None:
        return ""
    large, small = _gmac(found.teacher.first, found), _gmac(found.distilled.first, found)
    if not large or not small or small >= large:
        return ""
    share = f"1/{large / small:.0f}" if large / small >= 1.95 else f"{100 * small / large:.0f}{SPACE}%"
    return f", at {share} of the teacher’s GMACs"


def _gmac(contender: Contender, found: Comparison) -> float | None:
    """Its own run's count, or what a student's run counted for a teacher of its own."""
    own = contender.cost("gmac")
    if own is not None or found.distilled is None or contender.role != "teacher":
        return own
    student = found.distilled.first.reading
    names = [name for name, spec in student.recipe.models.items() if spec.frozen and spec.weights]
    return student.speed.numbers.get(f"{names[0]}/gmac") if names else None


def _seeds(found: Comparison) -> str:
    assert found.distilled is not None
    counts = [len(group.members) for group in (found.distilled, found.baseline) if group is not None]
    if min(counts) == 1:
        return "One seed: differences of one or two points are noise."
    deviations = [f"{100 * group.spread():.1f}" for group in (found.distilled, found.baseline) if group is not None]
    text = f"Means over {counts[0]} seeds; standard deviation {' and '.join(deviations)} points."
    if found.baseline is None:
        return text
    error = math.hypot(*(100 * g.spread() / math.sqrt(len(g.members)) for g in (found.distilled, found.baseline)))
    difference = abs(_points(found.distilled, found.baseline))
    return text if difference > 2 * error else f"{text} The difference is within two standard errors: noise."


def _plain(measured: Sequence[Group]) -> str:
    """When nothing was distilled."""
    best = max(measured, key=_miou)
    costs = [("parameters", best.first.cost("parameters"), ""), ("GMAC", best.first.cost("gmac"), "")]
    known = [f"{count(value) if unit == 'parameters' else f'{value:.3g}'} {unit}" for unit, value, _ in costs if value]
    start = f"The best of {len(measured)} experiments, {best.name}," if len(measured) > 1 else best.name
    return f"{start} reaches {percent(_miou(best))} mIoU{' with ' if known else ''}{' and '.join(known)}."


def _distance(points: float) -> str:
    if abs(points) < NOTICEABLE:
        return "as much as"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _points(one: Group, other: Group) -> float:
    return 100 * (_miou(one) - _miou(other))


def _miou(group: Group) -> float:
    value = group.mean("mean_iou")
    assert value is not None, "only measured experiments are compared"
    return value


def _best(groups: Sequence[Group], role: Role) -> Group | None:
    measured = [group for group in groups if group.role == role and group.mean("mean_iou") is not None]
    return max(measured, key=_miou, default=None)
