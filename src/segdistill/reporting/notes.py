"""What a reader should know before believing the numbers."""

from collections.abc import Callable, Sequence

from segdistill.mistakes import one_of
from segdistill.recipe import differences
from segdistill.reporting.cast import Group, Reading
from segdistill.reporting.verdict import Comparison

FAIR = ("data.", "optim.", "steps", "precision")
"""Places of a recipe at which a student and its baseline must agree."""


def notes(readings: Sequence[Reading], groups: Sequence[Group], found: Comparison) -> list[str]:
    """Sentences, the gravest first."""
    said = [*_unfair(found), *_other_data(readings), *_unfinished(readings)]
    for reading in readings:
        said += [f"{reading.run.name}: {text}" for text in _warnings(reading.info.get("warnings", []))]
    return said + _absent(groups) + _other_machines(readings)


def _unfair(found: Comparison) -> list[str]:
    """Where the distilled student and its baseline were not trained alike."""
    if found.baseline is None or found.distilled is None:
        return []
    one, other = found.baseline.first, found.distilled.first
    both = one.reading, other.reading
    changes = differences(one.reading.recipe, other.reading.recipe)
    unlike = {key: values for key, values in changes.items() if key.startswith(FAIR)}
    fewer, more = unlike.pop("data.unlabelled", (0, 0))
    extra = (
        f"{other.name} also saw {more} frames without labels ({one.name}: {fewer}), on which only the teacher speaks."
    )
    shown = {key: values for key, values in unlike.items() if key.startswith("data.frames")}
    unlike = {key: values for key, values in unlike.items() if key not in shown}
    text = "; ".join(f"{key} is {before} against {after}" for key, (before, after) in unlike.items())
    said = [f"Not like for like: {one.name} and {other.name} differ beyond distillation ({text})."] if text else []
    if shown:
        rates = [0.0 if reading.recipe.data.frames is None else reading.recipe.data.frames.rate for reading in both]
        share = f"Of the crops of {other.name} {rates[1]:g} are frames without labels ({one.name}: {rates[0]:g})"
        said.append(f"{share}, on which only teachers speak.")
    return said + ([extra] if fewer != more else [])


def _other_data(readings: Sequence[Reading]) -> list[str]:
    seen = _by(readings, lambda reading: str(reading.info.get("fingerprints", {}).get("val", "")))
    return [f"The runs were not validated on the same images: {seen}."] if seen else []


def _other_machines(readings: Sequence[Reading]) -> list[str]:
    timed = [reading for reading in readings if reading.speed.numbers]
    seen = _by(timed, lambda reading: str(reading.info.get("host", {}).get("processor", "")))
    return [f"Milliseconds were taken on different machines and do not compare: {seen}."] if seen else []


def _by(readings: Sequence[Reading], fact: Callable[[Reading], str]) -> str:
    """`a and b: this; c: that` where runs differ in a known fact, or nothing."""
    runs: dict[str, list[str]] = {}
    for reading in readings:
        if fact(reading):
            runs.setdefault(fact(reading), []).append(reading.run.name)
    return "; ".join(f"{one_of(names)}: {value}" for value, names in runs.items()) if len(runs) > 1 else ""


def _unfinished(readings: Sequence[Reading]) -> list[str]:
    said: list[str] = []
    for reading in readings:
        if not reading.measured.numbers:
            said.append(f"{reading.run.name} has not been measured.")
        if reading.last_step < reading.recipe.steps:
            said.append(f"{reading.run.name} stopped at step {reading.last_step:,} of {reading.recipe.steps:,}.")
    return said


def _absent(groups: Sequence[Group]) -> list[str]:
    absent: dict[str, None] = {}
    for group in groups:
        absent |= {name: None for name, (iou, _) in group.first.classes().items() if iou is None}
    if not absent:
        return []
    return [f"Absent from labels and predictions, and therefore left out of the mean: {one_of(absent)}."]


def _warnings(given: object) -> list[str]:
    """A list of sentences, or name -> what or how many."""
    if isinstance(given, dict):
        return [f"{name}: {value}" for name, value in given.items()]
    return [str(text) for text in given] if isinstance(given, list) else [str(given)]
