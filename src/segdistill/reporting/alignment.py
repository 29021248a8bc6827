"""The page about what stages have in common, from the findings of the analysis `alignment`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segdistill.reporting.pictures import data_uri
from segdistill.types import Cell, Findings, Picture

Rows = Sequence[Sequence[str]]
"""The first cell names the row."""


class Panel(NamedTuple):
    about: str
    source: str
    width: int
    height: int


class Arm(NamedTuple):
    name: str
    baseline: str | None
    panels: Sequence[Panel]
    rows: Rows
    """Stages that the teacher has too: CKA, change, between seeds."""
    everything: Rows
    """Every pair of stages."""


def page(found: Findings, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as one HTML file; arguments as those of the page about a data set."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    said = [(str(about), str(sentence)) for about, sentence in found.tables["advice"].rows]
    arms = [(str(row[0]), None if row[-1] is None else str(row[-1])) for row in found.tables["arms"].rows]
    teacher = found.tables["teacher"].rows[0]
    return environment.get_template("alignment.html.jinja").render(
        title=title,
        sentence=": ".join(said[0]).capitalize() if not found.tables["change"].rows else ": ".join(said[0]),
        advice=said,
        arms=[_arm(found, *arm) for arm in arms],
        directories=[[str(cell if cell is not None else "–") for cell in row] for row in found.tables["arms"].rows],
        teacher=str(teacher[0]),
        images=int(found.numbers["images"]),
        scale=f"{found.numbers['change_scale']:.2f}",
        facts=[("teacher", str(teacher[1])), *facts],
    )


def _arm(found: Findings, arm: str, baseline: str | None) -> Arm:
    pairs = {(row[1], row[2]): row for row in found.tables["alignment"].rows if row[0] == arm}
    changes = {(row[3], row[4]): row for row in found.tables["change"].rows if row[0] == arm}
    between = {row[1]: row for row in found.tables["between_seeds"].rows if row[0] == arm}
    rows: list[list[str]] = []
    everything: list[list[str]] = []
    for (stage, other), (*_, mean, low, high, floor, pixels) in pairs.items():
        own = [_number(mean), _ends(low, high, sign=False)]
        change = changes.get((stage, other))
        moved = [_signed(change[5]), _ends(change[6], change[7], sign=True)] if change else ["–", "–"]
        seeds = between.get(stage)
        spread = _ends(seeds[4], seeds[5], sign=False) if seeds and seeds[2] != 1 else "–"
        repeated = [_number(seeds[3]) if seeds else "–", spread]
        everything.append([f"{stage}, {other}", *own, *moved, _number(floor), f"{pixels:,}"])
        if stage == other:
            rows.append([str(stage), *own, *moved, *repeated, _number(floor), f"{pixels:,}"])
    names = [(f"cka/{arm}", f"CKA of the stages of {arm} with the teacher’s")]
    names += [(f"change/{arm}", f"{arm} less {baseline}")]
    panels = [_panel(found.images[name], about) for name, about in names if name in found.images]
    return Arm(arm, baseline, panels, rows, everything)


def _panel(picture: Picture, about: str) -> Panel:
    height, width = picture.pixels.shape[:2]
    return Panel(about, data_uri(picture.pixels, is_photograph=False), width, height)


def _number(cell: Cell) -> str:
    return f"{cell:.3f}" if isinstance(cell, int | float) else "–"


def _signed(cell: Cell) -> str:
    return f"{cell:+.3f}".replace("-", "−") if isinstance(cell, int | float) else "–"


def _ends(low: Cell, high: Cell, sign: bool) -> str:
    write = _signed if sign else _number
    return "–" if low is None or high is None else f"{write(low)} … {write(high)}"
