"""The rows of the page's tables, as text or numbers that the template only has to place."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from segdistill.reporting.cast import Contender, Group, Reading
from segdistill.reporting.verdict import Comparison, count, signed

DASH = "–"


class Row(NamedTuple):
    """One run in the summary; numbers as they are read, – where unknown."""

    series: int
    name: str
    role: str
    network: str
    parameters: str
    gmac: str
    milliseconds: str
    mean_iou: str
    weighted_iou: str
    accuracy: str
    best: str
    seed: str


class ClassRow(NamedTuple):
    """One class: its share of the pixels, every experiment's IoU in percent, and the gain."""

    name: str
    colour: str | None
    share: str
    ious: Sequence[float | None]
    gain: float | None
    gain_text: str


def summary(groups: Sequence[Group]) -> list[Row]:
    """Every run of every experiment."""
    return [_row(series, member, groups) for series, group in enumerate(groups) for member in group.members]


def per_class(groups: Sequence[Group], found: Comparison, colours: Mapping[str, str]) -> list[ClassRow]:
    """Classes by their share of the pixels, the most frequent first."""
    shares: dict[str, float] = {}
    for group in groups:
        for name, (_, share) in group.first.classes().items():
            shares.setdefault(name, share or 0.0)
    rows: list[ClassRow] = []
    for name in sorted(shares, key=lambda label: -shares[label]):
        ious = [group.class_iou(name) for group in groups]
        gain = None
        if found.baseline is not None and found.distilled is not None:
            with_it, without = found.distilled.class_iou(name), found.baseline.class_iou(name)
            gain = None if with_it is None or without is None else 100 * (with_it - without)
        rows.append(
            ClassRow(
                name,
                colours.get(name),
                _share(shares[name]),
                [None if iou is None else 100 * iou for iou in ious],
                gain,
                DASH if gain is None else signed(gain),
            )
        )
    return rows


def provenance(reading: Reading) -> list[tuple[str, str]]:
    """What run.json tells, as (name, text)."""
    left_out = {"warnings", "classes", "finished_lines"}
    info = {key: value for key, value in reading.info.items() if key not in left_out}
    if "seconds" in info:
        info["time"] = str(timedelta(seconds=round(info.pop("seconds"))))
    steps = f"{reading.last_step:,} of {reading.recipe.steps:,}"
    return [("steps", steps), *((key, _text(value)) for key, value in info.items())]


def _row(series: int, contender: Contender, groups: Sequence[Group]) -> Row:
    spec = contender.spec
    network = ", ".join([spec.kind or f"as in {spec.weights}", *(f"{k} {v}" for k, v in spec.parameters.items())])
    history = [] if spec.frozen else contender.history()
    step, best = max(history, key=lambda point: point[1], default=(0, 0.0))
    return Row(
        series=series,
        name=contender.name,
        role=contender.role,
        network=network,
        parameters=_cost(contender, "parameters", groups, "count"),
        gmac=_cost(contender, "gmac", groups, "{:.3g}"),
        milliseconds=_cost(contender, "milliseconds", groups, "{:.1f}"),
        mean_iou=_percent(contender.measured("mean_iou")),
        weighted_iou=_percent(contender.measured("frequency_weighted_iou")),
        accuracy=_percent(contender.measured("pixel_accuracy")),
        best=f"{100 * best:.1f} at {step:,}" if history else DASH,
        seed=str(contender.reading.recipe.seed),
    )


def _cost(contender: Contender, name: str, groups: Sequence[Group], form: str) -> str:
    value = contender.cost(name)
    if value is None:
        return DASH
    return count(value) if form == "count" else form.format(value)


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f}"


def _share(share: float) -> str:
    """`31.2`, `0.04`, `0`."""
    points = 100 * share
    return "0" if points == 0 else f"{points:.1f}" if points >= 0.95 else f"{points:.2g}"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
