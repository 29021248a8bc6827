"""The page about classes and results, from the findings of the analysis `class_results`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.reporting import charts
from segdistill.types import Cell, Findings

PROPERTIES = {
    "share": ("Pixels", "share of the training pixels, %", True),
    "side": ("Size", "pixels a side of the objects that hold half of the class", True),
    "boundary": ("Boundary", "share of the class's pixels near a boundary, %", False),
}
"""Property -> what it is called, the axis' label, and whether the axis is logarithmic."""


class Row(NamedTuple):
    name: str
    colour: str
    share: str
    side: str
    boundary: str
    teacher: str
    baseline: str
    student: str
    gain: str
    interval: str
    what: str


class Compared(NamedTuple):
    """A distilled experiment against its baseline."""

    name: str
    sentence: str
    mean: str
    rows: Sequence[Row]
    intervals: Markup
    plots: Sequence[tuple[Markup, str]]
    """(picture, what the rank correlation says)."""


def page(found: Findings, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as one HTML file; arguments as those of the page about a data set."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [name.removeprefix("gain/") for name in found.tables if name.startswith("gain/")]
    said = {str(name): str(sentence) for name, sentence in found.tables["advice"].rows}
    compared = [_compared(found, name, said[name]) for name in names]
    ious = found.tables["ious"]
    headline = [f"{c.name}: {c.mean} points of mIoU over the same network on labels alone" for c in compared]
    return environment.get_template("class_results.html.jinja").render(
        title=title,
        sentence="; ".join(headline) + "." if headline else f"{' '.join(*said.items()).capitalize()}",
        compared=compared,
        experiments=list(ious.columns)[1:],
        ious=[(str(row[0]), [_points(cell) for cell in row[1:]]) for row in ious.rows],
        facts=facts,
    )


def _compared(found: Findings, name: str, sentence: str) -> Compared:
    colours = {str(label): str(colour) for label, colour in found.tables["classes"].rows}
    properties = {str(row[0]): row[1:] for row in found.tables["properties"].rows}
    table = sorted(found.tables[f"gain/{name}"].rows, key=lambda row: -float(properties[str(row[0])][0] or 0))
    rows: list[Row] = []
    points: list[tuple[str, charts.Interval]] = []
    for label, gain, low, high, student, baseline, teacher, what in table:
        share, _, side, boundary = properties[str(label)]
        both = "–" if low is None else f"{_signed(low)} … {_signed(high)}"
        rows.append(
            Row(
                str(label), colours[str(label)], _points(share), str(side or "–"), _points(boundary), _points(teacher),
                _points(baseline), _points(student), _signed(gain), both, str(what),
            )
        )  # fmt: skip
        if gain is not None:
            value = 100 * float(gain)
            ends = (-100.0, 100.0) if low is None or high is None else (100 * float(low), 100 * float(high))
            points.append((str(label), charts.Interval(value, *ends)))
    key = "".join(letter if letter.isalnum() else "-" for letter in name)
    picture = charts.intervals(f"gain-{key}", [n for n, _ in points], [i for _, i in points], "gain in IoU, points")
    plots: list[tuple[Markup, str]] = []
    chance = found.numbers[f"{name}/chance"]
    for index, (prop, (_, label, is_logarithmic)) in zip((0, 2, 3), PROPERTIES.items(), strict=True):
        scale = 1.0 if prop == "side" else 100.0
        shown = [
            charts.Point(n, scale * float(value), interval.value, interval.low > 0 or interval.high < 0)
            for n, interval in points
            if isinstance(value := properties[n][index], int | float) and (value > 0 or not is_logarithmic)
        ]
        drawn = charts.scatter(f"{prop}-{key}", shown, "gain in IoU, points", label, is_logarithmic)
        rank = found.numbers[f"{name}/gain_with_{prop}"]
        verdict = "more than chance would" if abs(rank) > chance else "no more than chance would"
        plots.append((Markup(drawn), f"Rank correlation {rank:+.2f}: {verdict} (±{chance:.2f}).".replace("-", "−")))
    return Compared(name, sentence, _signed(found.numbers[f"{name}/mean_gain"]), rows, Markup(picture), plots)


def _points(cell: Cell) -> str:
    """A share in per cent."""
    if not isinstance(cell, int | float):
        return "–"
    return f"{100 * cell:.1f}" if cell >= 0.0095 or cell == 0 else f"{100 * cell:.2g}"


def _signed(cell: Cell) -> str:
    if not isinstance(cell, int | float):
        return "–"
    text = f"{100 * cell:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")
