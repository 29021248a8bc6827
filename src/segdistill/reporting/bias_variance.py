"""The page about bias and variance, from the findings of the analysis `bias_variance`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.reporting import charts
from segdistill.reporting.pictures import data_uri
from segdistill.types import Cell, Findings, Table

LOSSES = {"cross_entropy": "Cross-entropy, nats", "brier": "Brier", "zero_one": "0-1, share of the pixels"}
OVER = {
    "pixels": "all pixels",
    "classes": "mean of classes",
    "body": "away from boundaries",
    "boundary": "near boundaries",
    "frequent": "frequent classes",
    "common": "common classes",
    "rare": "rare classes",
}


class Row(NamedTuple):
    name: str
    cells: Sequence[str]


class Change(NamedTuple):
    """An arm against its baseline: by what it is over, and by class as pictures."""

    arm: str
    baseline: str
    rows: Sequence[tuple[str, Sequence[Row]]]
    """By loss."""
    bias: Markup
    variance: Markup


class Panel(NamedTuple):
    caption: str
    source: str
    width: int
    height: int


def page(found: Findings, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as one HTML file; arguments as those of the page about a data set."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    arms = [str(row[0]) for row in found.tables["arms"].rows]
    said = [(str(about), str(sentence)) for about, sentence in found.tables["advice"].rows]
    pairs = dict.fromkeys((str(row[0]), str(row[1])) for row in found.tables["change"].rows)
    return environment.get_template("bias_variance.html.jinja").render(
        title=title,
        sentence=": ".join(said[0]).capitalize() if not pairs else ": ".join(said[0]),
        advice=said,
        arms=[[str(cell if cell is not None else "–") for cell in row] for row in found.tables["arms"].rows],
        changes=[_change(found, place, *pair) for place, pair in enumerate(pairs)],
        decomposition=[(text, _decomposition(found.tables["decomposition"], loss)) for loss, text in LOSSES.items()],
        zero_one=[
            Row(f"{row[0]}, {OVER[str(row[1])]}", [_number(cell) for cell in row[3:]])
            for row in found.tables["zero_one"].rows
        ],
        classes=[(arm, _by_class(found, arm)) for arm in arms],
        gallery=_gallery(found, arms),
        scale=Markup(_scale()),
        tops={part: _number(found.numbers[f"{part}_scale"]) for part in ("bias", "variance")},
        images=int(found.numbers["images"]),
        stride=int(found.numbers["stride"]),
        reach=100 * found.numbers["boundary"],
        facts=facts,
    )


def _number(cell: Cell) -> str:
    return f"{cell:.4f}".replace("-", "−") if isinstance(cell, int | float) else "–"


def _signed(cell: Cell) -> str:
    return f"{cell:+.4f}".replace("-", "−") if isinstance(cell, int | float) else "–"


def _ends(low: Cell, high: Cell, sign: bool) -> str:
    write = _signed if sign else _number
    return "–" if low is None or high is None else f"{write(low)} … {write(high)}"


def _decomposition(table: Table, loss: str) -> list[Row]:
    return [
        Row(f"{arm}, {OVER[str(over)]}", [str(runs), f"{pixels:,}", _number(mean), _number(bias),
            _ends(low, high, sign=False), _number(variance), _ends(least, most, sign=False), _number(plug_in)])
        for arm, runs, kind, over, pixels, mean, bias, low, high, variance, least, most, plug_in in table.rows
        if kind == loss
    ]  # fmt: skip


def _change(found: Findings, place: int, arm: str, baseline: str) -> Change:
    rows = [
        (
            text,
            [
                Row(OVER[str(row[4])], [cell for at in (5, 8, 11)
                                        for cell in (_signed(row[at]), _ends(row[at + 1], row[at + 2], sign=True))])
                for row in found.tables["change"].rows
                if row[0] == arm and row[3] == loss
            ],
        )
        for loss, text in LOSSES.items()
    ]  # fmt: skip
    pictures = [
        _by_class_picture(found.tables[f"change/{arm}"], part, f"change-{place}") for part in ("bias", "variance")
    ]
    return Change(arm, baseline, rows, *pictures)


def _by_class_picture(table: Table, part: str, key: str) -> Markup:
    """Of the cross-entropy; the most frequent class first."""
    at = list(table.columns).index(part)
    rows = sorted((row for row in table.rows if row[1] == "cross_entropy"), key=lambda row: -float(row[2] or 0))
    points: list[tuple[str, charts.Interval]] = []
    for row in rows:
        if isinstance(value := row[at], int | float):
            low, high = row[at + 1 : at + 3]
            ends = (float(low), float(high)) if low is not None and high is not None else (value, value)
            points.append((str(row[0]), charts.Interval(value, *ends)))
    drawn = charts.intervals(f"{key}-{part}", [n for n, _ in points], [i for _, i in points], f"{part}, change in nats")
    return Markup(drawn)


def _by_class(found: Findings, arm: str) -> list[Row]:
    """The most frequent class first."""
    rows = sorted(found.tables[f"by_class/{arm}"].rows, key=lambda row: -float(row[2] or 0))
    return [Row(str(name), [f"{100 * float(share or 0):.2g}", *map(_number, cells)]) for name, _, share, *cells in rows]


def _gallery(found: Findings, arms: Sequence[str]) -> list[tuple[str, list[Panel]]]:
    """(image, photograph and maps)."""
    shown: list[tuple[str, list[Panel]]] = []
    for name in found.images:
        start, _, last = name.rpartition("/")
        if last != "image" or not start.startswith("maps/"):
            continue
        wanted = ["image", *(f"{arm} {part}" for arm in arms for part in ("bias", "variance"))]
        panels = [(what, found.images[f"{start}/{what}"].pixels) for what in wanted]
        drawn = [Panel(what, data_uri(p, what == "image"), p.shape[1], p.shape[0]) for what, p in panels]
        shown.append((start.removeprefix("maps/"), drawn))
    return shown


def _scale() -> str:
    """The pictures' colours from left to right, as CSS."""
    colours = (mpl.colormaps["magma"](np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int)
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colours.tolist())
